"""attention: softmax(q k^T / sqrt(H) + mask) v, for training rows and for cached decoding.

Forms with the same result, of which `attend` picks the fastest for the device and the length:
  naive    the equation, written down; autograd derives the backward pass
  matmul   the training form on CPU: five matrix products forward and backward, written out. At the row
           lengths of a CPU run (T <= 1024) keeping the T x T probabilities and letting the matrix library
           work on whole matrices is faster than any tiled CPU kernel, which wins only on memory.
  flash    tiles and an online softmax, written out: flash_attention.py; long rows on a CPU
  sdpa     F.scaled_dot_product_attention; long float32 rows of one document, and other devices
  flex     FlexAttention, flex.py; on request only
  triton   the tiles as GPU kernels, flash_triton.py; packed rows on a GPU

LLM_ATTENTION names one for all calls instead. It is a fact of the machine, not a setting: results differ by
rounding alone.

Equations   (1)-(6) in docs/nn/kernels/attention.md; comments below carry the same numbers.
Source      Vaswani et al. 2017, arXiv 1706.03762, eq. 1; the backward pass as in Dao 2022, arXiv 2205.14135
Shapes      B batch, N query heads, G key-value heads, R = N / G, T queries, S keys, H d_head
            of queries and keys; values, and so outputs, may be of another width
"""

import importlib.util
import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.flash_attention import first_visible, flash_attention
from llm.nn.kernels.fused import apply, constant

MATMUL_MAX_LEN = 1024  # beyond this the T x T matrix costs more memory traffic than it saves
BLOCKS, MIN_CUT_LEN = 4, 128
BACKENDS = ("auto", "naive", "matmul", "flash", "sdpa", "flex", "triton")


def attend(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTH: Tensor,
    *,
    mask: Tensor | Callable[[], Tensor | None] | None,
    bias_NTS: Tensor | None,
    scale: float | None = None,
    segments_BT: Tensor | None = None,
) -> Tensor:
    """Causal attention of one row over its own tokens -> [B, N, T, H].

    mask: additive [B, 1, T, T] that already holds the causal part (`segment_mask`), or None for plain causal.
    scale: factor of the scores, default 1 / sqrt(H). segments_BT: the documents, where they are all that the
    mask says; tiled forms then read them instead, and `mask` may be a function that makes it, called only if
    a form wants the matrix.
    """
    added = bias_NTS is not None or (segments_BT is None and mask is not None)
    name = backend(q_BNTH, v_BGTH, packed=segments_BT is not None, added=added)
    if segments_BT is None or name in ("naive", "matmul", "sdpa"):
        mask = mask() if callable(mask) else mask
        if mask is None and segments_BT is not None:
            mask = visible_mask(segments_BT, q_BNTH.dtype)
    elif callable(mask):
        mask = None
    return RUN[name](q_BNTH, k_BGTH, v_BGTH, segments_BT, mask, bias_NTS, scale)


def backend(q_BNTH: Tensor, v_BGTH: Tensor, *, packed: bool, added: bool) -> str:
    """The form to use: the one LLM_ATTENTION names, else the fastest. added: there is a bias, or a mask that
    is not one of documents. Raises ValueError for a name that does not exist or a form that cannot do it."""
    wanted = os.environ.get("LLM_ATTENTION", "auto")
    if wanted not in BACKENDS:
        raise ValueError(f"LLM_ATTENTION: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if wanted == "auto":
        return _fastest(q_BNTH, v_BGTH, packed=packed, added=added)
    why = _unfit(wanted, q_BNTH, v_BGTH, added=added)
    if why:
        raise ValueError(f"LLM_ATTENTION: {wanted!r} {why}; use auto or flash")
    return wanted


def _fastest(q_BNTH: Tensor, v_BGTH: Tensor, *, packed: bool, added: bool) -> str:
    if q_BNTH.device.type == "cpu":
        if q_BNTH.shape[2] <= MATMUL_MAX_LEN:
            return "matmul"
        # PyTorch's CPU kernel is the faster one only without any mask, and not in bf16
        return "flash" if packed or added or q_BNTH.dtype == torch.bfloat16 else "sdpa"
    if packed and q_BNTH.is_cuda and not _unfit("triton", q_BNTH, v_BGTH, added=added):
        from llm.nn.kernels.flash_triton import agrees

        if agrees(q_BNTH.device, q_BNTH.dtype, q_BNTH.shape[-1], v_BGTH.shape[-1]):
            return "triton"
    return "sdpa"


def _unfit(name: str, q_BNTH: Tensor, v_BGTH: Tensor, *, added: bool) -> str | None:
    """Why a form cannot be used for these inputs, or None."""
    device = q_BNTH.device.type
    if name == "flex" and device == "cpu" and torch.is_grad_enabled() and q_BNTH.requires_grad:
        return "has no backward pass on a CPU"
    if name != "triton":
        return None
    if importlib.util.find_spec("triton") is None:
        return "needs triton, which is not installed"
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"needs a CUDA GPU, found {device}"
    if added:
        return "takes no bias and no mask but that of documents"
    from llm.nn.kernels.flash_triton import DTYPES, MAX_WIDTH

    width = max(q_BNTH.shape[-1], v_BGTH.shape[-1])
    if q_BNTH.dtype not in DTYPES or width > MAX_WIDTH:
        return f"takes no {q_BNTH.dtype} heads of width {width}"
    return None


def visible_mask(segments_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, T, T] of packed documents; what `segment_mask` makes, out of `first_visible`."""
    T, device = segments_BT.shape[1], segments_BT.device
    index_T = torch.arange(T, device=device)
    first_BT1 = first_visible(T, segments_BT, None, device)[:, :, None]
    hidden_BTT = (index_T > index_T[:, None]) | (index_T < first_BT1)
    mask = torch.zeros(hidden_BTT.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden_BTT, float("-inf"))[:, None]


# ---------------------------------------------------------------- one function for each name

Added = Tensor | None


def _naive(
    q: Tensor, k: Tensor, v: Tensor, _: Added, mask: Added, bias: Added, scale: float | None
) -> Tensor:
    return attend_naive(q, k, v, full_mask(q, mask, bias), scale)


def _matmul(
    q: Tensor, k: Tensor, v: Tensor, _: Added, mask: Added, bias: Added, scale: float | None
) -> Tensor:
    out: Tensor = apply(MatmulAttention, q, k, v, full_mask(q, mask, bias), scale)
    return out


def _flash(
    q: Tensor, k: Tensor, v: Tensor, segments: Added, mask: Added, bias: Added, scale: float | None
) -> Tensor:
    added = _sum(mask if segments is None else None, bias)
    return flash_attention(q, k, v, segments_BT=segments, bias=added, scale=scale)[0]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, _: Added, mask: Added, bias: Added, scale: float | None) -> Tensor:
    """PyTorch's kernel. Its tiled forms want one width for all three: the narrower ones get zeros behind."""
    if bias is not None:
        mask = full_mask(q, mask, bias)
    H, width = q.shape[-1], v.shape[-1]
    if width != H:
        q, k, v = (F.pad(x, (0, max(H, width) - x.shape[-1])) for x in (q, k, v))
        scale = scale or 1 / math.sqrt(H)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )[..., :width]


def _flex(
    q: Tensor, k: Tensor, v: Tensor, segments: Added, mask: Added, bias: Added, scale: float | None
) -> Tensor:
    from llm.nn.kernels.flex import attend_flex

    added = _sum(mask if segments is None else None, bias)
    return attend_flex(q, k, v, segments_BT=segments, added_BNTT=added, scale=scale)


def _triton(
    q: Tensor, k: Tensor, v: Tensor, segments: Added, mask: Added, bias: Added, scale: float | None
) -> Tensor:
    from llm.nn.kernels.flash_triton import flash_attention_triton

    return flash_attention_triton(q, k, v, segments_BT=segments, scale=scale)[0]


def _sum(mask: Added, bias: Added) -> Added:
    """What is added to the scores, broadcastable to [B, N, T, T]."""
    if mask is None or bias is None:
        return bias if mask is None else mask
    return mask + bias.to(mask.dtype)


RUN = {"naive": _naive, "matmul": _matmul, "flash": _flash, "sdpa": _sdpa, "flex": _flex, "triton": _triton}


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
    (B, N, T, H), (_, G, S, _) = q_BNTH.shape, k_BGSH.shape
    # query heads of a group are neighbours: they become the tokens of one head
    if mask is None:  # one operation instead of seven
        q = q_BNTH.reshape(B, G, N // G * T, H).to(k_BGSH.dtype)
        o = F.scaled_dot_product_attention(q, k_BGSH, v_BGSH, scale=scale)
        return o.to(q_BNTH.dtype).reshape(B, N, T, -1)
    q = q_BNTH.reshape(B * G, N // G * T, H).to(k_BGSH.dtype)
    k, v = k_BGSH.flatten(0, 1), v_BGSH.flatten(0, 1)
    scores = torch.baddbmm(constant(0, q.dtype, q.device), q, k.mT, beta=0, alpha=scale or 1 / math.sqrt(H))
    scores.view(B, N, T, S).add_(mask)
    return torch.bmm(scores.softmax(-1), v).view(B, N, T, -1).to(q_BNTH.dtype)


def cache_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float32 for bf16 keys and values on a CPU, where products with one query are four times faster so."""
    return torch.float32 if device.type == "cpu" and dtype == torch.bfloat16 else dtype
