"""DSA: a cheap indexer picks k tokens for each query, and softmax attention reads only those.

Equations   (1)-(6) in docs/nn/mixers/dsa.md; comments below and in _indexer.py carry the same numbers.
Source      DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556, section 2.1
Cost        train O(T^2 J I) for the indexer, O(T K N H) for attention; decode O(S J I + K N H) per token;
            state 2 G H (gqa) or kv_rank + d_rope (mla), plus I numbers per token and layer
Differs     from the paper: any attention may be the main one (default: gqa); the stage does not freeze anything
            by itself; of equal scores the later token wins
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, G key-value heads, H d_head, W numbers
            cached of a token, J index_heads, I index_dim, K top_k
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llm.nn.kernels.attention import attend, attend_cached
from llm.nn.kernels.fused import high
from llm.nn.kernels.selected import RowLayout, attend_selected
from llm.nn.mixers._cache import CacheState
from llm.nn.mixers._heads import Heads, HeadsConfig
from llm.nn.mixers._indexer import Index, Indexer, Span
from llm.nn.mixers._latent import Latent, LatentConfig
from llm.nn.mixers.base import Context, Mixer, Site, Step
from llm.nn.position.base import Position, segment_positions


@dataclass(frozen=True, kw_only=True)
class Config(LatentConfig):
    """main: the attention over the chosen tokens; gqa has n_kv_heads, d_head (default d_model / n_heads) and
    qk_norm, mla the fields of `_latent.LatentConfig`. index_rope: rotated channels of index_dim. stage: warmup
    lets the main attention see everything while the indexer learns from it; sparse reads top_k tokens."""

    main: Literal["gqa", "mla"] = "gqa"
    n_kv_heads: int = 2
    d_head: int | None = None
    qk_norm: bool = False
    index_heads: int = 4
    index_dim: int = 32
    index_rope: int = 16
    top_k: int = 64
    stage: Literal["warmup", "sparse"] = "sparse"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_kv_heads", "index_heads", "index_dim", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        if self.main == "gqa":
            self.heads()
        if not 0 <= self.index_rope <= self.index_dim:
            raise ValueError(f"index_rope ({self.index_rope}) must be 0 to index_dim ({self.index_dim})")

    def heads(self) -> HeadsConfig:
        """What `main: gqa` reads of this Config."""
        return HeadsConfig(**{field.name: getattr(self, field.name) for field in fields(HeadsConfig)})


class Grouped(Heads):
    """The matrices of grouped-query attention, with the interface of `Latent`."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config.heads(), site)
        G = self.n_kv_heads
        self.d_rope = self.d_value = H = self.d_head
        self.width, self.d_source = 2 * G * H, site.d_model
        self.scale = config.mscale / H**0.5
        self.layout = RowLayout(
            keys=tuple(slice(g * H, (g + 1) * H) for g in range(G)),
            values=tuple(slice((G + g) * H, (G + g + 1) * H) for g in range(G)),
        )

    def project(self, x_BTD: Tensor, position: Position, angles: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B,N,T,H], keys and values of each token in a row [B,T,W], and x."""
        q, k, v = super().project(x_BTD, position, angles)
        return q, torch.cat([k, v], dim=1).transpose(1, 2).flatten(2), x_BTD

    def expand(self, rows_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B,G,T,H]."""
        k, v = rows_BTW.unflatten(-1, (-1, self.d_value)).transpose(1, 2).chunk(2, dim=1)
        return k, v

    def absorb(self, q_BNTH: Tensor) -> Tensor:
        return q_BNTH

    def values(self, o_BNTH: Tensor) -> Tensor:
        return o_BNTH


class SparseAttention(Mixer[CacheState]):
    """Softmax attention over the top_k tokens of the indexer, the same for all heads."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.n_heads, self.top_k, self.stage = config.n_heads, config.top_k, config.stage
        self.sees_all = config.stage == "warmup"
        self.chooses = not self.sees_all
        self.main = Latent(config, site) if config.main == "mla" else Grouped(config, site)
        self.indexer = Indexer(
            site.d_model,
            self.main.d_source,
            heads=config.index_heads,
            dim=config.index_dim,
            rope=config.index_rope,
        )
        if config.rotate:
            self.rotates = tuple(width for width in (self.main.d_rope, config.index_rope) if width)
        else:
            self.indexer.rope = 0
        self.w_o = nn.Linear(config.n_heads * self.main.d_value, site.d_model, bias=False)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        T = x_BTD.shape[1]
        q_BNTH, rows_BTW, source = self.main.project(x_BTD, position, context.angles)
        index = self.indexer.project(x_BTD, source, position, context.angles)
        span = own_document(x_BTD, context.segments_BT)
        learns, kl_BT = self.training and torch.is_grad_enabled(), None
        if self.stage == "warmup" or self.top_k >= T:
            k, v = self.main.expand(rows_BTW)
            o_BNTV = attend(q_BNTH, k, v, mask=context.mask_BTS, bias_NTS=None, scale=self.main.scale)
            if learns:
                kl_BT = self.indexer.divergence_all(index, span, self._shares(q_BNTH, rows_BTW, span))  # (5)
        else:
            chosen = self.indexer.choose(index, span, self.top_k)  # (3)
            o_BNTV, share = self._read(q_BNTH, rows_BTW, span, chosen)
            if learns:
                kl_BT = self.indexer.divergence_chosen(index, span, chosen, share)  # (6)
        if kl_BT is not None:
            context.losses.append(mean_of_tokens(kl_BT, context.segments_BT))
        return self.w_o(o_BNTV.transpose(1, 2).flatten(2))

    def _read_all(self, q_BNTH: Tensor, rows_BSW: Tensor, span: Span) -> Tensor:
        """Attention over all cached rows."""
        hidden = ~span.allows(torch.arange(rows_BSW.shape[1], device=rows_BSW.device))[:, None]
        mask = torch.zeros(hidden.shape, dtype=rows_BSW.dtype, device=rows_BSW.device)
        mask = mask.masked_fill_(hidden, float("-inf"))
        u_BNTV = attend_cached(self.main.absorb(q_BNTH), *self._split(rows_BSW), mask, self.main.scale)
        return self.main.values(u_BNTV)

    def _read(
        self, q_BNTH: Tensor, rows_BSW: Tensor, span: Span, chosen_BTK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention over chosen rows (4), and the probability each of them got, mean over heads."""
        main = self.main
        u_BNTV, share_BTK = attend_selected(
            main.absorb(q_BNTH), rows_BSW, chosen_BTK, span.allows(chosen_BTK), main.layout, main.scale
        )
        return main.values(u_BNTV), share_BTK

    def _shares(self, q_BNTH: Tensor, rows_BTW: Tensor, span: Span) -> Callable[[int, int], Tensor]:
        """What dense attention gives each key, mean over heads [B, C, end], for queries begin .. end."""
        q_BNTH, keys_BGTH = self.main.absorb(q_BNTH).detach(), self._split(rows_BTW.detach())[0]

        @torch.no_grad()
        def share(begin: int, end: int) -> Tensor:
            q_BGRCH = q_BNTH[:, :, begin:end].unflatten(1, (keys_BGTH.shape[1], -1))
            scores = q_BGRCH @ keys_BGTH[:, :, None, :end].mT * self.main.scale
            visible = span.allows(torch.arange(end, device=scores.device), begin, end)
            scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
            return torch.softmax(scores, dim=-1, dtype=high(scores.dtype)).mean(dim=(1, 2))

        return share

    def _split(self, rows_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of each group as they stand in the rows, [B, G, S, ..]."""
        keys, values = self.main.layout.keys, self.main.layout.values
        k, v = (torch.stack([rows_BSW[..., part] for part in parts], dim=1) for parts in (keys, values))
        return k, v

    def init_state(self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype) -> CacheState:
        widths = {"rows": self.main.width, "index": self.indexer.dim}
        return CacheState(widths, batch, max_len, device=device, dtype=dtype)

    def prefill(self, x_BTD: Tensor, position: Position, state: CacheState, step: Step) -> Tensor:
        q_BNTH, rows_BTW, source = self.main.project(x_BTD, position, step.angles)
        new = self.indexer.project(x_BTD, source, position, step.angles)
        state.append(step, rows=rows_BTW, index=new.k_BSI)
        rows_BSW = state.seen("rows")
        span = Span(first_BT=torch.zeros_like(step.positions_BT), last_BT=step.positions_BT)
        if self.stage == "warmup" or self.top_k >= state.longest:
            o_BNTV = self._read_all(q_BNTH, rows_BSW, span)
        else:
            seen = Index(
                q_BTJI=new.q_BTJI, weight_BTJ=new.weight_BTJ, k_BSI=state.seen("index").to(new.q_BTJI.dtype)
            )
            o_BNTV, _ = self._read(q_BNTH, rows_BSW, span, self.indexer.choose(seen, span, self.top_k))
        return self.w_o(o_BNTV.transpose(1, 2).flatten(2))

    def decode(self, x_B1D: Tensor, position: Position, state: CacheState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


def own_document(x_BTD: Tensor, segments_BT: Tensor | None) -> Span:
    """Every token sees its own document up to itself."""
    index_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
    if segments_BT is None:
        return Span(first_BT=torch.zeros_like(index_1T), last_BT=index_1T)
    return Span(first_BT=index_1T - segment_positions(segments_BT), last_BT=index_1T)


def mean_of_tokens(values_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
    """The mean over all tokens that are no padding."""
    if segments_BT is None:
        return values_BT.mean()
    real_BT = segments_BT != 0
    return (values_BT * real_BT).sum() / real_BT.sum().clamp_min(1)


build = SparseAttention
