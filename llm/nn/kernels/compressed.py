"""compressed: attention of every query to the summaries of past blocks, in tiles of queries.

The number of summaries grows with the row, so this stays quadratic, by the stride cheaper than over tokens. The
probabilities of a tile exist while it is computed, forward and again backward; `look` is shown them, to choose by.

Equations   (1)-(5) in docs/nn/kernels/compressed.md; comments below carry the same numbers.
Source      Yuan et al. 2025, Native Sparse Attention, arXiv 2502.11089, section 3.3; backward pass as in Dao 2022,
            arXiv 2205.14135
Cost        O(T J N H) time, half of it where a row is one document; O(T N H) memory
Shapes      B batch, N query heads, G key-value heads, R = N / G, T queries, C of a tile, J summaries, H of a key,
            V of a value
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply, high
from llm.nn.kernels.selected import tiles

Look = Callable[[int, int, Tensor], None]


def attend_compressed(
    q_BNTH: Tensor, k_BGJH: Tensor, v_BGJV: Tensor, first_BT: Tensor, last_BT: Tensor, look: Look
) -> Tensor:
    """Outputs [B, N, T, V]; a query sees summaries first .. last (1 or B rows), and gets 0 where there are none.

    look(begin, end, share_BGCJ): called with each range of queries and their probabilities summed over the heads
    of a group, without gradient; J is as far as one of them sees.
    """
    out_BNTV: Tensor = apply(CompressedAttention, q_BNTH, k_BGJH, v_BGJV, first_BT, last_BT, look)
    return out_BNTV


class CompressedAttention(torch.autograd.Function):
    """Query heads of one group are stacked, so that its summaries are read once."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BNTH: Tensor,
        k_BGJH: Tensor,
        v_BGJV: Tensor,
        first_BT: Tensor,
        last_BT: Tensor,
        look: Look,
    ) -> Tensor:
        (B, N, T, _), G, V = q_BNTH.shape, k_BGJH.shape[1], v_BGJV.shape[-1]
        q_BGRTH, R = q_BNTH.unflatten(1, (G, N // G)), N // G
        out_BGRTV = q_BNTH.new_empty(B, G, R, T, V)
        lse_BGRT1 = q_BNTH.new_empty(B, G, R, T, 1, dtype=high(q_BNTH.dtype))
        for begin, end, J in reach(last_BT, B * N, k_BGJH.shape[2]):
            scores = tile_scores(q_BGRTH, k_BGJH, first_BT, last_BT, begin, end, J)
            top = scores.amax(-1, keepdim=True).clamp_min_(torch.finfo(scores.dtype).min)
            probs = scores.sub_(top).exp_()  # (1)
            total = probs.sum(-1, keepdim=True)
            # nothing visible: a sum of 0, which infinity turns into probabilities of 0 backwards
            lse_BGRT1[:, :, :, begin:end] = (top + total.log()).masked_fill_(total == 0, float("inf"))
            probs /= total.clamp_min_(torch.finfo(total.dtype).tiny)
            stacked = probs.to(v_BGJV.dtype).flatten(2, 3)
            out_BGRTV[:, :, :, begin:end] = (stacked @ v_BGJV[:, :, :J]).unflatten(2, (R, -1))  # (2)
            look(begin, end, probs.sum(2))
        ctx.save_for_backward(q_BGRTH, k_BGJH, v_BGJV, first_BT, last_BT, out_BGRTV, lse_BGRT1)
        return out_BGRTV.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q_BGRTH, k_BGJH, v_BGJV, first_BT, last_BT, out_BGRTV, lse_BGRT1 = ctx.saved_tensors
        B, G, R, _, H = q_BGRTH.shape
        wide, dtype = high(q_BGRTH.dtype), q_BGRTH.dtype
        d_out_BGRTV = grads[0].unflatten(1, (G, R))
        d_q = torch.empty_like(q_BGRTH)
        # a summary is the sum of many gradients: added up in float32
        d_k, d_v = (torch.zeros_like(x, dtype=wide) for x in (k_BGJH, v_BGJV))
        for begin, end, J in reach(last_BT, B * G * R, k_BGJH.shape[2]):
            scores = tile_scores(q_BGRTH, k_BGJH, first_BT, last_BT, begin, end, J)
            probs = scores.sub_(lse_BGRT1[:, :, :, begin:end]).exp_().flatten(2, 3)
            q, d_out, out = (x[:, :, :, begin:end].flatten(2, 3) for x in (q_BGRTH, d_out_BGRTV, out_BGRTV))
            d_v[:, :, :J] += probs.to(dtype).mT @ d_out  # (3)
            mean = (d_out * out).sum(-1, keepdim=True, dtype=wide)
            d_scores = (d_out @ v_BGJV[:, :, :J].mT).to(wide).sub_(mean)
            d_scores = d_scores.mul_(probs).mul_(1 / math.sqrt(H)).to(dtype)  # (4)
            d_k[:, :, :J] += d_scores.mT @ q  # (5)
            d_q[:, :, :, begin:end] = (d_scores @ k_BGJH[:, :, :J]).unflatten(2, (R, -1))
        return d_q.flatten(1, 2), d_k.to(dtype), d_v.to(dtype), None, None, None


def reach(last_BT: Tensor, rows: int, J: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of queries, each with the number of summaries up to the last one any of them sees (at least 1)."""
    last_T = last_BT.amax(0).tolist()  # the host has to know how far each tile goes
    for begin, end in tiles(len(last_T), rows * J):
        yield begin, end, min(J, max(0, *last_T[begin:end]) + 1)


def tile_scores(
    q_BGRTH: Tensor, k_BGJH: Tensor, first_BT: Tensor, last_BT: Tensor, begin: int, end: int, J: int
) -> Tensor:
    """Scores of the queries begin .. end over the first J summaries, [B, G, R, C, J] in float32 or finer."""
    R, H = q_BGRTH.shape[2], q_BGRTH.shape[-1]
    scores = q_BGRTH[:, :, :, begin:end].flatten(2, 3) @ k_BGJH[:, :, :J].mT
    scores = scores.to(high(scores.dtype)).mul_(1 / math.sqrt(H)).unflatten(2, (R, -1))
    index_J = torch.arange(J, device=scores.device)
    hidden_BCJ = (index_J < first_BT[:, begin:end, None]) | (index_J > last_BT[:, begin:end, None])
    return scores.masked_fill_(hidden_BCJ[:, None, None], float("-inf"))
