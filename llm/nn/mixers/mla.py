"""MLA: softmax attention that caches one small latent vector a token instead of keys and values.

Equations   (1)-(7) in docs/nn/mixers/mla.md; comments below and in _latent.py carry the same numbers.
Source      DeepSeek-AI 2024, DeepSeek-V2, arXiv 2405.04434, section 2.1 (absorbed form: appendix C);
            without rotation: Kimi Team 2025, Kimi Linear, arXiv 2510.26692
Cost        train O(T^2 N (d_nope + d_rope + d_value)) time; decode O(T N (2 kv_rank + d_rope)) operations that
            read kv_rank + d_rope numbers per token; state kv_rank + d_rope numbers per token and layer
Differs     from the paper: rotated pairs are (i, i + R/2), not (2i, 2i + 1): a fixed permutation of rows; the
            matrices that read x are one
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, L kv_rank + d_rope
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.kernels.attention import attend, attend_cached
from llm.nn.mixers._cache import CacheState
from llm.nn.mixers._latent import Latent, LatentConfig
from llm.nn.mixers.base import Context, Mixer, Site, Step
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Config(LatentConfig):
    """The fields of `_latent.LatentConfig`."""


class LatentAttention(Mixer[CacheState]):
    """Softmax attention with n_heads heads whose keys and values are all made of one latent."""

    takes_bias = True

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.rotates = (config.d_rope,) if config.rotate else ()
        self.latent = Latent(config, site)
        self.w_o = nn.Linear(config.n_heads * config.d_value, site.d_model, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        q_BNTH, latent_BTL, _ = self.latent.project(x_BTD, position, context.angles)
        bias = None
        if context.positions.dim() == 1:
            bias = position.bias(context.positions, context.positions)
        return self.expanded(q_BNTH, latent_BTL, mask=context.mask_BTS, bias_NTS=bias)

    def expanded(
        self, q_BNTH: Tensor, latent_BTL: Tensor, *, mask: Tensor | None, bias_NTS: Tensor | None
    ) -> Tensor:
        """Tokens over each other, keys and values of every head written out: the fewest operations a pair."""
        k, v = self.latent.expand(latent_BTL)
        o = attend(q_BNTH, k, v, mask=mask, bias_NTS=bias_NTS, scale=self.latent.scale)  # (4)
        return self.w_o(o.transpose(1, 2).flatten(2))

    def absorbed(self, q_BNTH: Tensor, latent_BSL: Tensor, *, mask: Tensor | None) -> Tensor:
        """Tokens over the cache as it is, which all heads share: the fewest numbers read."""
        k_B1SL, c_B1SR = latent_BSL[:, None], latent_BSL[:, None, :, : self.latent.kv_rank]
        u_BNTR = attend_cached(self.latent.absorb(q_BNTH), k_B1SL, c_B1SR, mask, self.latent.scale)  # (6)
        return self.w_o(self.latent.values(u_BNTR).transpose(1, 2).flatten(2))

    def init_state(self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype) -> CacheState:
        return CacheState({"latent": self.latent.width}, batch, max_len, device=device, dtype=dtype)

    def prefill(self, x_BTD: Tensor, position: Position, state: CacheState, step: Step) -> Tensor:
        if state.longest > 0:
            return self.decode(x_BTD, position, state, step)
        q_BNTH, latent_BTL, _ = self.latent.project(x_BTD, position, step.angles)
        state.append(step, latent=latent_BTL)
        return self.expanded(q_BNTH, latent_BTL, mask=step.mask, bias_NTS=None)

    def decode(self, x_B1D: Tensor, position: Position, state: CacheState, step: Step) -> Tensor:
        q_BNTH, latent_BTL, _ = self.latent.project(x_B1D, position, step.angles)
        state.append(step, latent=latent_BTL)
        return self.absorbed(q_BNTH, state.seen("latent"), mask=step.mask)


build = LatentAttention
