"""attention: softmax(q k^T / sqrt(H) + mask) v, for training rows and for cached decoding.

Three forms with the same result:
  attend_naive    the equation, written down; autograd derives the backward pass
  MatmulAttention the training form on CPU: five matrix products forward and backward, written out.
                  At the row lengths of a CPU run (T <= 1024) keeping the T x T probabilities and letting
                  the matrix library work on whole matrices is several times faster than PyTorch's tiled
                  CPU kernel, which wins only on memory.
  F.scaled_dot_product_attention   long rows, and every other device

Equations   (1)-(6) in docs/nn/kernels/attention.md; comments below carry the same numbers.
Source      Vaswani et al. 2017, arXiv 1706.03762, eq. 1; the backward pass as in Dao 2022, arXiv 2205.14135
Shapes      B batch, N query heads, G key-value heads, R = N / G, T queries, S keys, H d_head
            of queries and keys; values, and so outputs, may be of another width
"""

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.fused import apply

MATMUL_MAX_LEN = 1024  # beyond this the T x T matrix costs more memory traffic than it saves
BLOCKS, MIN_CUT_LEN = 4, 128


def attend(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTH: Tensor,
    *,
    mask: Tensor | None,
    bias_NTS: Tensor | None,
    scale: float | None = None,
) -> Tensor:
    """Causal attention of one row over its own tokens -> [B, N, T, H].

    mask: additive [B, 1, T, T] that already holds the causal part (`segment_mask`), or None for plain causal.
    scale: factor of the scores, default 1 / sqrt(H).
    """
    T = q_BNTH.shape[2]
    if q_BNTH.device.type == "cpu" and T <= MATMUL_MAX_LEN:
        full = full_mask(q_BNTH, mask, bias_NTS)
        out: Tensor = apply(MatmulAttention, q_BNTH, k_BGTH, v_BGTH, full, scale)
        return out
    if bias_NTS is not None:
        mask = full_mask(q_BNTH, mask, bias_NTS)
    return _tiled(q_BNTH, k_BGTH, v_BGTH, mask, scale)


def _tiled(
    q_BNTH: Tensor, k_BGTH: Tensor, v_BGTH: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """PyTorch's kernel. Its tiled forms want one width for all three: the narrower ones get zeros behind."""
    H, width = q_BNTH.shape[-1], v_BGTH.shape[-1]
    if width != H:
        q_BNTH, k_BGTH, v_BGTH = (
            F.pad(x, (0, max(H, width) - x.shape[-1])) for x in (q_BNTH, k_BGTH, v_BGTH)
        )
        scale = scale or 1 / math.sqrt(H)
    return F.scaled_dot_product_attention(
        q_BNTH, k_BGTH, v_BGTH, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )[..., :width]


def attend_naive(
    q_BNTH: Tensor, k_BGTH: Tensor, v_BGTH: Tensor, mask: Tensor, scale: float | None = None
) -> Tensor:
    """The textbook form; query head n reads key-value head n // R."""
    repeat = q_BNTH.shape[1] // k_BGTH.shape[1]
    k_BNTH, v_BNTH = (x.repeat_interleave(repeat, dim=1) for x in (k_BGTH, v_BGTH))
    scores_BNTS = q_BNTH @ k_BNTH.transpose(-1, -2) * (scale or 1 / math.sqrt(q_BNTH.shape[-1])) + mask
    return torch.softmax(scores_BNTS, dim=-1) @ v_BNTH


def full_mask(q_BNTH: Tensor, mask: Tensor | None, bias_NTS: Tensor | None) -> Tensor:
    """One additive mask, broadcastable to [B, N, T, T], out of the causal rule, the segments and a bias."""
    T = q_BNTH.shape[2]
    if mask is None:
        mask = torch.full((T, T), float("-inf"), dtype=q_BNTH.dtype, device=q_BNTH.device).triu(1)
    return mask if bias_NTS is None else mask + bias_NTS.to(mask.dtype)


class MatmulAttention(torch.autograd.Function):
    """Attention whose query heads of one group are stacked, so that GQA needs no copy of keys or values.

    The queries are cut into `BLOCKS` ranges; a range reads no key after its own last one, which saves
    (BLOCKS - 1) / (2 BLOCKS) of the work: the part of the matrix above the diagonal.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BNTH: Tensor, k_BGTH: Tensor, v_BGTH: Tensor, mask: Tensor, scale: float | None = None
    ) -> Tensor:
        (B, N, T, H), G = q_BNTH.shape, k_BGTH.shape[1]
        scale = scale or 1 / math.sqrt(H)
        k, v = k_BGTH.reshape(B * G, T, H), v_BGTH.reshape(B * G, T, -1)
        out = q_BNTH.new_empty(B, N, T, v.shape[-1])
        saved = []
        for begin, end in query_ranges(T):
            q = q_BNTH[:, :, begin:end].reshape(B * G, -1, H)
            # (1) [B G, R C, end]: C queries of R heads against all keys up to the last of them
            scores = torch.baddbmm(q.new_empty(()), q, k[:, :end].mT, beta=0, alpha=scale)
            scores.view(B, N, end - begin, end).add_(mask[..., begin:end, :end])
            probs = torch.softmax(scores, dim=-1)  # (2); float32 inside, rounded once
            out[:, :, begin:end] = torch.bmm(probs, v[:, :end]).view(B, N, end - begin, -1)  # (3)
            saved += [q, probs]
        ctx.save_for_backward(k, v, *saved)
        ctx.sizes, ctx.scale = (B, N, G, T, H), scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        k, v, *saved = ctx.saved_tensors
        B, N, G, T, H = ctx.sizes
        scale, empty = ctx.scale, k.new_empty(())
        d_q = k.new_empty(B, N, T, H)
        d_k, d_v = torch.empty_like(k), torch.empty_like(v)
        # from the last range to the first: the last one writes every key's gradient, the others add to theirs
        for (begin, end), q, probs in reversed(
            list(zip(query_ranges(T), saved[::2], saved[1::2], strict=True))
        ):
            d_out = grads[0][:, :, begin:end].reshape(B * G, -1, v.shape[-1])
            _accumulate(d_v, end == T, torch.bmm(probs.mT, d_out))  # (4)
            d_probs = torch.bmm(d_out, v[:, :end].mT)
            # (5) dS = P * (dP - rowsum(P * dP)), one pass
            d_scores = torch._softmax_backward_data(d_probs, probs, -1, probs.dtype)
            d_q[:, :, begin:end] = torch.baddbmm(empty, d_scores, k[:, :end], beta=0, alpha=scale).view(
                B, N, end - begin, H
            )  # (6)
            _accumulate(d_k, end == T, torch.baddbmm(empty, d_scores.mT, q, beta=0, alpha=scale))
        return d_q, d_k.view(B, G, T, H), d_v.view(B, G, T, -1), None, None


def query_ranges(T: int) -> list[tuple[int, int]]:
    """`BLOCKS` ranges of nearly equal length that cover 0..T; one range where a cut would not pay."""
    if T < MIN_CUT_LEN:
        return [(0, T)]
    cuts = [T * i // BLOCKS for i in range(BLOCKS + 1)]
    return list(itertools.pairwise(cuts))


def _accumulate(total: Tensor, first: bool, part: Tensor) -> None:
    """Write `part` over the first keys of `total`, or add it to them."""
    target = total[:, : part.shape[1]]
    target.copy_(part) if first else target.add_(part)


def attend_cached(
    q_BNTH: Tensor, k_BGSH: Tensor, v_BGSH: Tensor, mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """New queries over cached keys -> [B, N, T, H]. mask: additive, [B, 1 or N, T, S], or None;
    scale: factor of the scores, default 1 / sqrt(H).

    Computed in the dtype of the cache (see `cache_dtype`), returned in that of the queries.
    """
    B, N, T, H = q_BNTH.shape
    G, S = k_BGSH.shape[1], k_BGSH.shape[2]
    q = q_BNTH.reshape(B * G, N // G * T, H).to(k_BGSH.dtype)  # query heads of a group are neighbours
    k, v = k_BGSH.flatten(0, 1), v_BGSH.flatten(0, 1)
    scores = torch.baddbmm(q.new_empty(()), q, k.mT, beta=0, alpha=scale or 1 / math.sqrt(H))
    if mask is not None:
        scores.view(B, N, T, S).add_(mask)
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(B, N, T, -1).to(q_BNTH.dtype)


def cache_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float32 for bf16 keys and values on a CPU, where products with one query are four times faster so."""
    return torch.float32 if device.type == "cpu" and dtype == torch.bfloat16 else dtype
