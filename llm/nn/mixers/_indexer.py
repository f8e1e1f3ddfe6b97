"""_indexer: the small attention of `dsa` that says which tokens the large one is to read, and how it learns.

Equations   (1)-(3), (5)-(6) in docs/nn/mixers/dsa.md; comments below carry the same numbers.
Source      DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556, section 2.1
Differs     from the paper: no Hadamard transform and no FP8, which leave ideal scores as they are
Shapes      B batch, T queries, C queries of a tile, S keys, K chosen keys, J index_heads, I index_dim
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm.nn.kernels.fused import high
from llm.nn.kernels.ranking import NEVER, ranks
from llm.nn.kernels.selected import gather, tiles
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Span:
    """The keys a query may see: those at first_BT to last_BT, itself (1 or B rows each)."""

    first_BT: Tensor
    last_BT: Tensor

    def allows(self, index: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
        """True where the keys at `index`, [S] or [B, C, K], are visible to the queries of begin .. end."""
        first, last = self.first_BT[:, begin:end, None], self.last_BT[:, begin:end, None]
        return (index >= first) & (index <= last)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What the indexer makes of the tokens: queries, a weight for each of them, and one key, in float32."""

    q_BTJI: Tensor
    weight_BTJ: Tensor
    k_BSI: Tensor


class Indexer(nn.Module):
    """Scores tokens with a few narrow heads that share one key."""

    def __init__(self, d_model: int, d_source: int, *, heads: int, dim: int, rope: int) -> None:
        super().__init__()
        self.heads, self.dim, self.rope = heads, dim, rope
        self.w_query = nn.Linear(d_source, heads * dim, bias=False)
        self.w_key = nn.Linear(d_model, dim, bias=False)
        self.key_norm = nn.LayerNorm(dim, eps=1e-6)
        self.w_weight = nn.Linear(d_model, heads, bias=False)

    def project(self, x_BTD: Tensor, source: Tensor, position: Position, angles: Any) -> Index:
        """(1), of inputs whose gradient stops here: only the indexer's own loss changes the indexer."""
        x_BTD, source = x_BTD.detach(), source.detach()
        q_BJTI = self.w_query(source).unflatten(-1, (self.heads, self.dim)).transpose(1, 2)
        k_B1TI = self.key_norm(self.w_key(x_BTD))[:, None]
        if self.rope:
            q_BJTI, k_B1TI = (
                torch.cat([position.rotate(x[..., : self.rope], angles), x[..., self.rope :]], dim=-1)
                for x in (q_BJTI, k_B1TI)
            )
        # the scale of the products is positive, so that it may stand before the rectifier or behind it
        weight_BTJ = self.w_weight(x_BTD) * (self.heads * self.dim) ** -0.5
        wide = high(x_BTD.dtype)
        return Index(
            q_BTJI=q_BJTI.transpose(1, 2).to(wide),
            weight_BTJ=weight_BTJ.to(wide),
            k_BSI=k_B1TI[:, 0].to(wide),
        )

    def scores(self, q_BTJI: Tensor, weight_BTJ: Tensor, k_BSI: Tensor) -> Tensor:
        """I [B, T, S] of all keys for all queries given (2)."""
        dots_BTJS = (q_BTJI.flatten(1, 2) @ k_BSI.mT).relu_().unflatten(1, (-1, self.heads))
        return (weight_BTJ[:, :, None] @ dots_BTJS)[:, :, 0]

    @torch.no_grad()
    def choose(self, index: Index, span: Span, top_k: int) -> Tensor:
        """The top_k keys of each query, [B, T, K] (3); where fewer are visible, the rest are ones it may not see."""
        (B, T, J, _), S = index.q_BTJI.shape, index.k_BSI.shape[1]
        chosen = []
        for begin, end in tiles(T, B * J * S):
            limit = max(S - T + end, top_k)  # no query of the tile sees a later key
            scores = self.scores(
                index.q_BTJI[:, begin:end], index.weight_BTJ[:, begin:end], index.k_BSI[:, :limit]
            )
            places_S = torch.arange(limit, device=scores.device)
            rank = ranks(scores).masked_fill_(~span.allows(places_S, begin, end), NEVER)
            chosen.append(rank.topk(top_k, dim=-1, sorted=False).indices)
        return torch.cat(chosen, dim=1)

    def divergence_chosen(self, index: Index, span: Span, chosen_BTK: Tensor, share_BTK: Tensor) -> Tensor:
        """KL of each query over its chosen keys, [B, T] (6)."""

        def tile(begin: int, end: int, q_BTJI: Tensor, weight_BTJ: Tensor, k_BSI: Tensor) -> Tensor:
            chosen = chosen_BTK[:, begin:end]
            k_MKI = gather(k_BSI, chosen)  # M queries, each with keys of its own
            q_MJI, weight_MJ = (x[:, begin:end].flatten(0, 1) for x in (q_BTJI, weight_BTJ))
            scores = self.scores(q_MJI[:, None], weight_MJ[:, None], k_MKI).view_as(chosen)
            return divergence(share_BTK[:, begin:end], scores, span.allows(chosen, begin, end))

        return self._by_tiles(tile, index, chosen_BTK.shape[-1] * self.dim)

    def divergence_all(self, index: Index, span: Span, share: Callable[[int, int], Tensor]) -> Tensor:
        """KL of each query over all keys it sees, [B, T] (5); share(begin, end): the target of these queries over
        the keys up to the last of them, [B, C, end]."""

        def tile(begin: int, end: int, q_BTJI: Tensor, weight_BTJ: Tensor, k_BSI: Tensor) -> Tensor:
            visible = span.allows(torch.arange(end, device=k_BSI.device), begin, end)
            scores = self.scores(q_BTJI[:, begin:end], weight_BTJ[:, begin:end], k_BSI[:, :end])
            return divergence(share(begin, end), scores, visible)

        return self._by_tiles(tile, index, index.k_BSI.shape[1] * self.heads)

    def _by_tiles(self, tile: Callable[..., Tensor], index: Index, numbers: int) -> Tensor:
        """Each tile computed again in the backward pass, so that its scores need not be kept."""
        B, T = index.q_BTJI.shape[:2]
        tensors = index.q_BTJI, index.weight_BTJ, index.k_BSI
        return torch.cat(
            [checkpoint(tile, begin, end, *tensors, use_reentrant=False, preserve_rng_state=False)
             for begin, end in tiles(T, B * numbers)], dim=1
        )  # fmt: skip


def divergence(target: Tensor, logits: Tensor, allowed: Tensor) -> Tensor:
    """KL(target || softmax of the allowed logits) over the last dimension, in float32."""
    target = target / target.sum(-1, keepdim=True)
    log_q = torch.log_softmax(logits.masked_fill(~allowed, float("-inf")), dim=-1).masked_fill(~allowed, 0)
    return (torch.xlogy(target, target) - target * log_q).sum(-1)
