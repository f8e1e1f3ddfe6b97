"""linear_attention: causal attention without softmax, in chunks, with an optional decay per head and token.

    S_t = e^(a_t) S_(t-1) + k_t v_t^T,    o_t = S_t^T q_t

Two forms with the same result: `step` is the recurrence, one token at a time; `chunked` reads whole rows with
matrix products: scores inside a chunk, one state S for all that lies before it. Feature maps, normalisers and
gates belong to the mixers. A normaliser q_t . (k_1 + ... + k_t) is one more column of ones in v.

Equations   (1)-(6) in docs/nn/kernels/linear_attention.md; comments below carry the same numbers.
Source      Katharopoulos et al. 2020, arXiv 2006.16236 (recurrence); Hua et al. 2022, arXiv 2202.10447, and
            Sun et al. 2023, arXiv 2307.08621 (chunks); Dao & Gu 2024, arXiv 2405.21060 (decay by token)
Cost        O(T (C (K + V) + K V)) time per head instead of O(T^2 (K + V)); state K V numbers per head
Shapes      B batch, N heads, G query-key heads (N = G R, head n reads g = n // R), T tokens, K, V widths of
            key and value, c chunks of C tokens
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64


def step(
    q_BGTK: Tensor,
    k_BGTK: Tensor,
    v_BNTV: Tensor,
    log_decay_BNT: Tensor | None = None,
    state_BNKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token a row, T = 1 -> (o_BNTV in the dtype of v, next state): the equations themselves."""
    wide, repeat = torch.promote_types(v_BNTV.dtype, torch.float32), v_BNTV.shape[1] // q_BGTK.shape[1]
    q, k = q_BGTK.to(wide), k_BGTK.to(wide)
    if repeat > 1:
        q, k = q.repeat_interleave(repeat, dim=1), k.repeat_interleave(repeat, dim=1)
    new = k.mT * v_BNTV
    if state_BNKV is not None:
        old = state_BNKV if log_decay_BNT is None else state_BNKV * log_decay_BNT.exp().unsqueeze(-1)
        new = new + old  # (1)
    return (q @ new).to(v_BNTV.dtype), new  # (2)


def chunked(
    q_BGTK: Tensor,
    k_BGTK: Tensor,
    v_BNTV: Tensor,
    log_decay_BNT: Tensor | None = None,
    state_BNKV: Tensor | None = None,
    *,
    segments_BT: Tensor | None = None,
    real_BT: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Whole rows -> (o_BNTV in the dtype of v, last state_BNKV in float32 or finer).

    log_decay_BNT: a_t <= 0, finite, in float32 or finer; its first axis may be 1. segments_BT: the state is
    empty at the first token of each segment; a given state belongs to the segment of the first token.
    real_BT: False where a token neither writes to the state nor lets it decay (padding).
    """
    B, N, T, V = v_BNTV.shape
    G, K, C = q_BGTK.shape[1], q_BGTK.shape[3], min(chunk, T)
    if real_BT is not None:
        k_BGTK = k_BGTK.masked_fill(~real_BT[:, None, :, None], 0)
        v_BNTV = v_BNTV.masked_fill(~real_BT[:, None, :, None], 0)
        if log_decay_BNT is not None:
            log_decay_BNT = log_decay_BNT.masked_fill(~real_BT[:, None], 0)
    q, k = (cut(x, C)[:, :, None] for x in (q_BGTK, k_BGTK))  # [B, G, 1, c, C, K]
    v = cut(v_BNTV, C).unflatten(1, (G, N // G))  # [B, G, R, c, C, V]
    decay = None if log_decay_BNT is None else cut(log_decay_BNT[..., None], C).unflatten(1, (G, N // G))
    factors = make_factors(decay, None if segments_BT is None else cut_segments(segments_BT, C), C, v)

    o = ((q @ k.mT) * factors.inside.to(v.dtype)) @ v  # (3), first term
    wide = torch.promote_types(v.dtype, torch.float32)
    written = k.mT @ (v if factors.write is None else v * factors.write.to(v.dtype))  # (4), second term
    state = v.new_zeros((), dtype=wide).expand(B, N, K, V) if state_BNKV is None else state_BNKV.to(wide)
    befores, state = scan(state.unflatten(1, (G, N // G)), written.to(wide), factors.keep)
    if state_BNKV is not None or T > C:
        read = q @ befores.to(v.dtype)  # (3), second term
        o = o + (read if factors.read is None else read * factors.read.to(v.dtype))
    return o.flatten(3, 4)[:, :, :, :T].flatten(1, 2), state.flatten(1, 2)


def cut(x: Tensor, C: int) -> Tensor:
    """[B, N, T, X] -> [B, N, c, C, X]; zeros fill a last chunk that is short."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % C)).unflatten(2, (-1, C))


def cut_segments(segments_BT: Tensor, C: int) -> Tensor:
    """[B, T] -> [B, 1, 1, c, C, 1]; what fills a short chunk belongs to the last segment, whose state survives."""
    more = segments_BT[:, -1:].expand(-1, -segments_BT.shape[1] % C)
    return torch.cat([segments_BT, more], dim=1).unflatten(1, (-1, C))[:, None, None, ..., None]


@dataclass(frozen=True)
class Factors:
    """What decay and borders of documents multiply; None stands for 1. All in the dtype of the decay."""

    inside: Tensor  # [..., c, C, C] weight of token j in token i of the same chunk (5)
    read: Tensor | None = None  # [..., c, C, 1] weight of the state before the chunk in token i
    write: Tensor | None = None  # [..., c, C, 1] weight of token j in the state after the chunk
    keep: Tensor | None = None  # [..., c, 1, 1] weight of the state before the chunk in the state after it


def make_factors(decay: Tensor | None, segments: Tensor | None, C: int, like: Tensor) -> Factors:
    """Out of log-decays and segment numbers, [B, G, R, c, C, 1] each.

    A decay is exp of a difference of sums, never a quotient of exponentials: those leave the range of floats.
    """
    allowed = torch.ones(C, C, dtype=torch.bool, device=like.device).tril()
    if segments is not None:
        allowed = allowed & (segments == segments.mT)
    if decay is None:
        if segments is None:
            return Factors(allowed)
        reads, writes, keeps = same_segment(segments)
        return Factors(allowed, reads, writes, keeps)
    sums = decay.cumsum(-2)  # (6) A_i: from the start of the chunk to its token i, that token included
    last = sums[..., -1:, :]
    inside = (sums - sums.mT).masked_fill(~allowed, float("-inf")).exp()
    if segments is None:
        return Factors(inside, sums.exp(), (last - sums).exp(), last.exp())
    reads, writes, keeps = same_segment(segments)
    return Factors(inside, sums.exp() * reads, (last - sums).exp() * writes, last.exp() * keeps)


def same_segment(segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True where token i sees the state before its chunk, where token j reaches the end of it, and where the
    state before a chunk reaches its end: [B, 1, 1, c, C, 1] twice and [B, 1, 1, c, 1, 1]."""
    last = segments[..., -1:, :]
    before = torch.cat([segments[..., :1, :1, :], last[..., :-1, :, :]], dim=-3)
    return segments == before, segments == last, last == before


def scan(state: Tensor, written: Tensor, keep: Tensor | None, dim: int = 3) -> tuple[Tensor, Tensor]:
    """The state before every chunk, chunks along `dim` as in `written`, and after the last one (4)."""
    befores = []
    keeps = [None] * written.shape[dim] if keep is None else keep.unbind(dim)
    for new, factor in zip(written.unbind(dim), keeps, strict=True):
        befores.append(state)
        state = (state if factor is None else state * factor) + new
    return torch.stack(befores, dim=dim), state
