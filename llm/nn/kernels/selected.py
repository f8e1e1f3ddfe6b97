"""selected: attention of every query over its own few rows of a table, gathered in tiles of queries.

A row of the table holds the keys and the values of one token, of all groups; it is fetched once for all heads.
Only the probabilities are kept for the backward pass, which fetches the rows again.

Equations   (1)-(6) in docs/nn/kernels/selected.md; comments below carry the same numbers.
Source      the gather form of DeepSeek Sparse Attention, DeepSeek-AI 2025, arXiv 2512.02556, section 2.1; backward
            pass as in Dao 2022, arXiv 2205.14135
Cost        O(T K N H) time; memory N K numbers a query, and one tile of gathered rows
Shapes      B batch, T queries, S rows of the table, K chosen rows a query, N heads, G groups, R = N / G,
            W width of a row, H of a key, V of a value
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply, high

TILE_NUMBERS = 1 << 19  # numbers in the largest temporary tensor of a tile: what a cache of 2 MiB holds


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Where in a row the key and the value of each group stand; they may overlap (a latent is both)."""

    keys: tuple[slice, ...]
    values: tuple[slice, ...]


def attend_selected(
    q_BNTH: Tensor, rows_BSW: Tensor, chosen_BTK: Tensor, allowed_BTK: Tensor, layout: RowLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs [B, N, T, V], and the probability each chosen row got, mean over heads, [B, T, K], detached.

    chosen_BTK: different rows for each query, of which those count that are allowed, at least one.
    """
    q_BTNH = q_BNTH.transpose(1, 2).to(rows_BSW.dtype)  # a cache may be kept in a wider one
    out_BTNV, share_BTK = apply(SelectedAttention, q_BTNH, rows_BSW, chosen_BTK, allowed_BTK, layout, scale)
    return out_BTNV.transpose(1, 2).to(q_BNTH.dtype), share_BTK.detach()


def tiles(T: int, numbers: int) -> Iterator[tuple[int, int]]:
    """Ranges of queries, such that `numbers` per query make no tensor above TILE_NUMBERS."""
    size = max(1, TILE_NUMBERS // max(1, numbers))
    for begin in range(0, T, size):
        yield begin, min(begin + size, T)


class SelectedAttention(torch.autograd.Function):
    """Softmax attention over gathered rows; M = B x queries of a tile are one batch of small products."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BTNH: Tensor,
        rows_BSW: Tensor,
        chosen_BTK: Tensor,
        allowed_BTK: Tensor,
        layout: RowLayout,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        B, T, N, _ = q_BTNH.shape
        R = N // len(layout.keys)
        V = layout.values[0].stop - layout.values[0].start
        out_BTNV = q_BTNH.new_empty(B, T, N, V)
        probs_BTNK = q_BTNH.new_empty(B, T, N, chosen_BTK.shape[-1])
        for begin, end in tiles(T, B * rows_BSW.shape[-1] * chosen_BTK.shape[-1]):
            rows_MKW = gather(rows_BSW, chosen_BTK[:, begin:end])  # (1)
            blocked_M1K = ~allowed_BTK[:, begin:end].flatten(0, 1)[:, None]
            q_MNH = q_BTNH[:, begin:end].flatten(0, 1)
            for g, (key, value) in enumerate(zip(layout.keys, layout.values, strict=True)):
                heads = slice(g * R, (g + 1) * R)
                scores = torch.bmm(q_MNH[:, heads], rows_MKW[..., key].mT) * scale  # (2)
                probs = torch.softmax(scores.masked_fill_(blocked_M1K, float("-inf")), dim=-1)
                out_BTNV[:, begin:end, heads] = torch.bmm(probs, rows_MKW[..., value]).unflatten(0, (B, -1))
                probs_BTNK[:, begin:end, heads] = probs.unflatten(0, (B, -1))
        share_BTK = probs_BTNK.mean(dim=2, dtype=high(q_BTNH.dtype))
        ctx.save_for_backward(q_BTNH, rows_BSW, chosen_BTK, probs_BTNK)
        ctx.layout, ctx.scale = layout, scale
        return out_BTNV, share_BTK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        q_BTNH, rows_BSW, chosen_BTK, probs_BTNK = ctx.saved_tensors
        layout: RowLayout = ctx.layout
        (B, S, W), T, R = rows_BSW.shape, q_BTNH.shape[1], q_BTNH.shape[2] // len(layout.keys)
        d_q = torch.empty_like(q_BTNH)
        # a row chosen by many queries is the sum of many gradients: added up in float32
        d_rows = rows_BSW.new_zeros(B * S, W, dtype=high(rows_BSW.dtype))
        for begin, end in tiles(T, B * W * chosen_BTK.shape[-1]):
            chosen = chosen_BTK[:, begin:end]
            rows_MKW = gather(rows_BSW, chosen)
            d_MKW = torch.zeros_like(rows_MKW)
            q, probs, d_out = (x[:, begin:end].flatten(0, 1) for x in (q_BTNH, probs_BTNK, grads[0]))
            for g, (key, value) in enumerate(zip(layout.keys, layout.values, strict=True)):
                heads = slice(g * R, (g + 1) * R)
                d_probs = torch.bmm(d_out[:, heads], rows_MKW[..., value].mT)  # (4)
                d_scores = torch._softmax_backward_data(d_probs, probs[:, heads], -1, probs.dtype).mul_(
                    ctx.scale
                )
                d_MKW[..., value].baddbmm_(probs[:, heads].mT, d_out[:, heads])  # (3)
                d_MKW[..., key].baddbmm_(d_scores.mT, q[:, heads])  # (5)
                d_q[:, begin:end, heads] = torch.bmm(d_scores, rows_MKW[..., key]).unflatten(
                    0, (B, -1)
                )  # (6)
            d_rows.index_add_(0, flat_index(chosen, S), d_MKW.view(-1, W).to(d_rows.dtype))
        return d_q, d_rows.view(B, S, W).to(rows_BSW.dtype), None, None, None, None


def gather(rows_BSW: Tensor, chosen_BTK: Tensor) -> Tensor:
    """The chosen rows of every query, [B T, K, W]."""
    B, S, W = rows_BSW.shape
    flat = rows_BSW.reshape(B * S, W).index_select(0, flat_index(chosen_BTK, S))
    return flat.view(-1, chosen_BTK.shape[-1], W)


def flat_index(chosen_BTK: Tensor, S: int) -> Tensor:
    """Index of the chosen rows where the tables of all batch rows follow one another, [B T K]."""
    first_B = torch.arange(len(chosen_BTK), device=chosen_BTK.device) * S
    return (chosen_BTK + first_B[:, None, None]).flatten()
