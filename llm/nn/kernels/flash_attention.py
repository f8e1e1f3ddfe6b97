"""flash_attention: softmax attention in tiles, forward and backward, without the T x T matrix.

Queries are read in tiles; for each, the keys pass by in tiles too, and a running maximum, a running sum and a
running output are corrected whenever a larger score turns up. Besides the output only the log-sum-exp of
every row is kept; the backward pass makes the probabilities of a tile again from it.

Which keys a query sees is one number: `first`, the first of them; it sees `first .. itself`. That covers the
causal rule, a window and packed documents, and tells which tiles need no look at all and which no mask.

Equations   (1)-(10) in docs/nn/kernels/flash_attention.md; comments below carry the same numbers.
Source      Dao 2023, FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2; online softmax: Milakov &
            Gimelshein 2018, arXiv 1805.02867
Cost        train O(T^2 N H) time, or O(T W N H) with a window W; memory O(T N H) and tiles
Differs     from the paper: keys are the inner loop of the backward pass too, so that one thread suffices;
            products of bf16 tiles are rounded to bf16 before they are added up in float32
Shapes      B batch, N query heads, G key-value heads, R = N / G, T tokens, H d_head, V width of a value;
            within a tile of C queries and K keys: q [B G, R C, H], scores [B G, R C, K]
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply, high
from llm.nn.position.base import segment_positions


@dataclass(frozen=True)
class Tiles:
    """How many queries and how many keys are looked at together. The result does not depend on it."""

    queries: int = 128
    keys: int = 256

    def __post_init__(self) -> None:
        if self.queries < 1 or self.keys < 1:
            raise ValueError(f"flash: tiles of {self.queries} queries and {self.keys} keys must be positive")


TILES = Tiles()


def flash_attention(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTV: Tensor,
    *,
    segments_BT: Tensor | None = None,
    window: int | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    tiles: Tiles = TILES,
) -> tuple[Tensor, Tensor]:
    """Causal attention of rows over their own tokens -> output [B, N, T, V] and log-sum-exp [B, N, T].

    segments_BT: documents as in `Context`; a padding token sees itself alone. window: tokens visible, the
    current one included. bias: added to the scaled scores, broadcastable to [B, N, T, T], no gradient; where it
    is -inf for all keys of a query, the output is 0 and the log-sum-exp -inf. Both results carry gradients.

    Raises:
        ValueError: heads do not divide, a window below 1, a bias that wants a gradient.
    """
    N, T = q_BNTH.shape[1:3]
    if N % k_BGTH.shape[1]:
        raise ValueError(f"flash: {N} query heads cannot share {k_BGTH.shape[1]} key-value heads evenly")
    if window is not None and window < 1:
        raise ValueError(f"flash: window ({window}) must be positive")
    if bias is not None and bias.requires_grad:
        raise ValueError("flash: the bias gets no gradient here; use attend_naive for a trained one")
    if bias is not None:
        bias = bias.expand(*(1,) * (4 - bias.dim()), *bias.shape[:-2], T, T)
    first_BT = first_visible(T, segments_BT, window, q_BNTH.device)
    scale = scale or 1 / math.sqrt(q_BNTH.shape[-1])
    out: tuple[Tensor, Tensor] = apply(
        FlashAttention, q_BNTH, k_BGTH, v_BGTV, Visible.of(first_BT, bias, tiles), scale
    )
    return out


def first_visible(T: int, segments_BT: Tensor | None, window: int | None, device: torch.device) -> Tensor:
    """The first key each query sees, [B, T] (or [1, T]): it sees all from there to itself (1). Never falls."""
    index_T = torch.arange(T, device=device)
    first_BT = torch.zeros(1, T, dtype=torch.long, device=device)
    if segments_BT is not None:
        first_BT = torch.where(segments_BT == 0, index_T, index_T - segment_positions(segments_BT))
    return first_BT if window is None else torch.maximum(first_BT, index_T - window + 1)


@dataclass(frozen=True)
class Tile:
    """Queries i0 .. i1 and keys j0 .. j1; whole: every one of these queries sees every one of these keys."""

    i0: int
    i1: int
    j0: int
    j1: int
    whole: bool


@dataclass(frozen=True)
class Visible:
    """Who sees whom, tile by tile; low and high: least and greatest `first` among the queries of a tile."""

    first_BT: Tensor
    bias: Tensor | None
    tiles: Tiles
    low: list[int]
    high: list[int]

    @classmethod
    def of(cls, first_BT: Tensor, bias: Tensor | None, tiles: Tiles) -> "Visible":
        cuts = first_BT.split(tiles.queries, dim=1)
        low, high = ([int(edge) for edge in edges] for edges in _edges(cuts))
        return cls(first_BT, bias, tiles, low, high)

    def query_tiles(self) -> Iterator[tuple[int, int, list[Tile]]]:
        """(i0, i1, the key tiles of which these queries see anything)."""
        T, step = self.first_BT.shape[1], self.tiles.keys
        for number, i0 in enumerate(range(0, T, self.tiles.queries)):
            i1 = min(T, i0 + self.tiles.queries)
            starts = range(self.low[number] // step * step, i1, step)  # (2)
            spans = [(j0, min(i1, j0 + step)) for j0 in starts]
            whole = [self.high[number] <= j0 and j1 <= i0 + 1 for j0, j1 in spans]
            yield i0, i1, [Tile(i0, i1, *span, all_) for span, all_ in zip(spans, whole, strict=True)]

    def scores(self, q: Tensor, k: Tensor, tile: Tile, scale: float) -> Tensor:
        """Scaled scores [B G, R C, K] of one tile in float32 or finer, -inf where a key is hidden (3)."""
        scores = torch.baddbmm(q.new_empty(()), q, k.mT, beta=0, alpha=scale).to(high(q.dtype))
        if self.bias is None and tile.whole:
            return scores
        C, K = tile.i1 - tile.i0, tile.j1 - tile.j0
        if self.bias is not None:
            _add(scores, self.bias[..., tile.i0 : tile.i1, tile.j0 : tile.j1])
        if not tile.whole:
            keys_K = torch.arange(tile.j0, tile.j1, device=q.device)
            queries_C = torch.arange(tile.i0, tile.i1, device=q.device)[:, None]
            first_BC = self.first_BT[:, tile.i0 : tile.i1, None]
            hidden_BCK = (keys_K > queries_C) | (keys_K < first_BC)
            rows = hidden_BCK.shape[0]
            scores.view(rows, -1, C, K).masked_fill_(hidden_BCK[:, None], float("-inf"))
        return scores


def _edges(cuts: tuple[Tensor, ...]) -> tuple[list[int], list[int]]:
    """Least and greatest number of every cut, fetched from the device at once."""
    both = torch.stack([torch.stack([cut.min(), cut.max()]) for cut in cuts]).tolist()
    return [low for low, _ in both], [high for _, high in both]


def _add(scores: Tensor, bias: Tensor) -> None:
    """scores [B G, R C, K] += bias [B or 1, N or 1, C, K]."""
    B, N, C, K = bias.shape
    heads = (B, -1) if N == 1 else (-1, N)
    scores.view(*heads, C, K).add_(bias)


class FlashAttention(torch.autograd.Function):
    """(output, log-sum-exp) of one row of tiles after the other; keeps both and the inputs, nothing else."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Visible, scale: float
    ) -> tuple[Tensor, Tensor]:
        (B, N, T, _), G, V = q.shape, k.shape[1], v.shape[-1]
        k_all, v_all = k.reshape(B * G, T, -1), v.reshape(B * G, T, V)
        out, lse = q.new_empty(B, N, T, V), q.new_empty(B, N, T, dtype=high(q.dtype))
        for i0, i1, tiles in seen.query_tiles():
            q_tile = q[:, :, i0:i1].reshape(B * G, -1, q.shape[-1])
            m = torch.full_like(q_tile[..., :1], float("-inf"), dtype=lse.dtype)
            l, acc = torch.zeros_like(m), q_tile.new_zeros(*q_tile.shape[:2], V, dtype=lse.dtype)
            for tile in tiles:
                s = seen.scores(q_tile, k_all[:, tile.j0 : tile.j1], tile, scale)
                largest = torch.maximum(m, s.amax(-1, keepdim=True))  # (4)
                base = largest.masked_fill(largest == float("-inf"), 0)  # nothing seen yet: no -inf - -inf
                p, shrink = (s.sub_(base)).exp_(), (m - base).exp_()
                l = l.mul_(shrink).add_(p.sum(-1, keepdim=True))  # (5)
                acc.mul_(shrink).add_(torch.bmm(p.to(v.dtype), v_all[:, tile.j0 : tile.j1]))  # (6)
                m = largest
            acc.div_(l.masked_fill(l == 0, 1))
            out[:, :, i0:i1] = acc.view(B, N, -1, V)
            lse[:, :, i0:i1] = (m + l.log()).view(B, N, -1)  # (7)
        ctx.save_for_backward(q, k_all, v_all, out, lse)
        ctx.seen, ctx.scale = seen, scale
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k_all, v_all, out, lse = ctx.saved_tensors
        d_out, d_lse = grads
        B, N, T, H = q.shape
        V = v_all.shape[-1]
        G, wide = len(k_all) // B, lse.dtype
        # (8) what every dS of a row loses; the log-sum-exp itself passes P on
        delta = (d_out.to(wide) * out).sum(-1).sub_(d_lse)
        d_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        d_k, d_v = torch.zeros_like(k_all, dtype=wide), torch.zeros_like(v_all, dtype=wide)
        empty = q.new_empty(())
        for i0, i1, tiles in ctx.seen.query_tiles():
            q_tile = q[:, :, i0:i1].reshape(B * G, -1, H)
            d_tile = d_out[:, :, i0:i1].reshape(B * G, -1, V)
            lse_tile = lse[:, :, i0:i1].reshape(B * G, -1, 1)
            lse_tile = lse_tile.masked_fill(lse_tile == float("-inf"), 0)
            delta_tile = delta[:, :, i0:i1].reshape(B * G, -1, 1)
            d_q_tile = torch.zeros_like(q_tile, dtype=wide)
            for tile in tiles:
                k, v = k_all[:, tile.j0 : tile.j1], v_all[:, tile.j0 : tile.j1]
                p = ctx.seen.scores(q_tile, k, tile, ctx.scale).sub_(lse_tile).exp_()  # (9)
                d_v[:, tile.j0 : tile.j1] += torch.bmm(p.to(v.dtype).mT, d_tile)  # (10)
                d_s = p.mul_(torch.bmm(d_tile, v.mT).sub(delta_tile)).to(q.dtype)
                d_q_tile += torch.baddbmm(empty, d_s, k, beta=0, alpha=ctx.scale)
                d_k[:, tile.j0 : tile.j1] += torch.baddbmm(empty, d_s.mT, q_tile, beta=0, alpha=ctx.scale)
            d_q[:, :, i0:i1] = d_q_tile.view(B, N, -1, H)
        return d_q, d_k.to(q.dtype).view(B, G, T, H), d_v.to(q.dtype).view(B, G, T, V), None, None
