"""_latent: keys and values that come out of one small vector a token, shared by `mla` and `dsa`.

Equations   (1)-(7) in docs/nn/mixers/mla.md; comments below carry the same numbers.
Source      DeepSeek-AI 2024, DeepSeek-V2, arXiv 2405.04434, section 2.1 and appendix C
Differs     from the paper: rotated pairs are (i, i + R/2), see `position._rotary.interleaved_to_half`
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, L kv_rank + d_rope,
            H d_nope + d_rope, V d_value
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.kernels.selected import RowLayout
from llm.nn.mixers.base import Site
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """d_nope, d_rope: channels of a query and key without and with rotation; d_value: of a value. kv_rank: width
    of the latent that keys and values are made of; q_rank: the same for queries, null: made of x directly.
    mscale: factor on the scores (for YaRN as DeepSeek uses it: the square of 0.1 mscale_all_dim ln factor + 1).
    rotate: False leaves the d_rope channels as they are (the latent attention of Kimi Linear). norm_eps: of the
    norms of the latents; null: that of `model.norm` (Kimi Linear has 1e-6 here and 1e-5 elsewhere)."""

    n_heads: int = 4
    d_nope: int = 32
    d_rope: int = 16
    d_value: int = 32
    q_rank: int | None = 96
    kv_rank: int = 64
    mscale: float = 1.0
    rotate: bool = True
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_heads", "d_nope", "d_rope", "d_value", "q_rank", "kv_rank", "mscale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} ({value}) must be positive")


class Latent(nn.Module):
    """The matrices of latent attention and both ways to use them: expanded and absorbed."""

    def __init__(self, config: LatentConfig, site: Site) -> None:
        super().__init__()
        self.n_heads, self.d_value, self.kv_rank = config.n_heads, config.d_value, config.kv_rank
        self.d_nope, self.d_rope, self.rotate = config.d_nope, config.d_rope, config.rotate
        self.d_head, self.width = self.d_nope + self.d_rope, self.kv_rank + self.d_rope
        self.scale = config.mscale / self.d_head**0.5
        # all of a cached row is the key of the absorbed form, its latent the value
        self.layout = RowLayout(keys=(slice(0, self.width),), values=(slice(0, self.kv_rank),))
        rows_q = self.n_heads * self.d_head
        self.d_source = config.q_rank or site.d_model  # width of what queries are made of
        self.parts = (config.q_rank or rows_q, self.kv_rank, self.d_rope)
        self.w_in = nn.Linear(site.d_model, sum(self.parts), bias=False)
        self.w_in.weight.parts = self.parts  # type: ignore[attr-defined]  # for Muon
        norm = site.norm if config.norm_eps is None else replace(site.norm, eps=config.norm_eps)
        self.kv_norm = registry.build(norm, self.kv_rank)
        self.q_norm = registry.build(norm, config.q_rank) if config.q_rank else nn.Identity()
        self.w_q = nn.Linear(config.q_rank, rows_q, bias=False) if config.q_rank else nn.Identity()
        # for each head the d_nope rows of its key, then the d_value rows of its value
        self.w_kv = nn.Linear(self.kv_rank, self.n_heads * (self.d_nope + self.d_value), bias=False)

    def project(self, x_BTD: Tensor, position: Position, angles: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B,N,T,H], what is cached of each token [B,T,L], and what the queries are made of."""
        B, T, _ = x_BTD.shape
        q_low, c, k_rope = self.w_in(x_BTD).split(self.parts, dim=-1)  # (1)
        c, q_low = self.kv_norm(c), self.q_norm(q_low)
        q_BNTH = self.w_q(q_low).view(B, T, self.n_heads, self.d_head).transpose(1, 2)  # (2)
        if self.rotate:  # one rotated key for all heads
            q_nope, q_rope = q_BNTH.split([self.d_nope, self.d_rope], dim=-1)
            q_BNTH = torch.cat([q_nope, position.rotate(q_rope, angles)], dim=-1)
            k_rope = position.rotate(k_rope[:, None], angles)[:, 0]
        source = x_BTD if isinstance(self.q_norm, nn.Identity) else q_low
        return q_BNTH, torch.cat([c, k_rope], dim=-1), source

    def expand(self, latent_BTL: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B,N,T,H] and values [B,N,T,V] of every head (3)."""
        B, T, _ = latent_BTL.shape
        c, k_rope = latent_BTL.split([self.kv_rank, self.d_rope], dim=-1)
        kv = self.w_kv(c).view(B, T, self.n_heads, -1).transpose(1, 2)
        k_nope, v_BNTV = kv.split([self.d_nope, self.d_value], dim=-1)
        k_rope = k_rope[:, None].expand(-1, self.n_heads, -1, -1)
        return torch.cat([k_nope, k_rope], dim=-1), v_BNTV

    def absorb(self, q_BNTH: Tensor) -> Tensor:
        """Queries [B,N,T,L] whose product with a cached row is the score with its expanded key (5)."""
        q_nope, q_rope = q_BNTH.split([self.d_nope, self.d_rope], dim=-1)
        return torch.cat([q_nope @ self._maps(q_BNTH.dtype)[:, : self.d_nope], q_rope], dim=-1)

    def values(self, u_BNTR: Tensor) -> Tensor:
        """What a mean of latents [.., kv_rank] is as a mean of values, [B,N,T,V] (7)."""
        return u_BNTR @ self._maps(u_BNTR.dtype)[:, self.d_nope :].mT

    def _maps(self, dtype: torch.dtype) -> Tensor:
        """w_kv by head, [N, d_nope + d_value, kv_rank]."""
        return self.w_kv.weight.view(self.n_heads, -1, self.kv_rank).to(dtype)
