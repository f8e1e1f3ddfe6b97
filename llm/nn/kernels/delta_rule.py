"""delta_rule: linear attention that first takes away what a key already stands for, in chunks.

    S_t = (I - b_t k_t k_t^T) Diag(e^(a_t)) S_(t-1) + b_t k_t v_t^T,    o_t = S_t^T q_t

Two forms with the same result: `step` is the recurrence, one token at a time; `chunked` reads whole rows. Inside
a chunk the corrections of all tokens depend on each other; they are one triangular system (WY form), solved once.
The log-decay a_t is absent (DeltaNet), one number a head (Gated DeltaNet) or one a key channel (KDA).

Equations   (1)-(8) in docs/nn/kernels/delta_rule.md; comments below carry the same numbers.
Source      Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule, arXiv 2406.06484; Gated
            Delta Networks, arXiv 2412.06464; Kimi Linear, arXiv 2510.26692 (decay a channel)
Cost        O(T (C (K + V) + K V)) time per head, with decay a channel O(T 8 K) more; state K V numbers per head
Shapes      B batch, N heads, T tokens, K, V widths of key and value, c chunks of C tokens
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.linear_attention import cut, cut_segments, same_segment

CHUNK = 64
BLOCK = 8  # tokens whose decays by channel are compared pair by pair


def step(
    q_BNTK: Tensor,
    k_BNTK: Tensor,
    v_BNTV: Tensor,
    beta_BNT: Tensor,
    log_decay_BNTK: Tensor | None,
    state_BNKV: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One token a row, T = 1 -> (o_BNTV in the dtype of v, next state): the equations themselves."""
    wide = torch.promote_types(v_BNTV.dtype, torch.float32)
    q, k, v, beta = q_BNTK.to(wide), k_BNTK.to(wide), v_BNTV.to(wide), beta_BNT.to(wide)[..., None]
    old = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3]) if state_BNKV is None else state_BNKV.to(wide)
    if log_decay_BNTK is not None:
        old = old * log_decay_BNTK.to(wide).exp().mT  # (1) first fade,
    new = old + k.mT @ (beta * (v - k @ old))  # (2) then correct what is left
    return (q @ new).to(v_BNTV.dtype), new  # (3)


def chunked(
    q_BNTK: Tensor,
    k_BNTK: Tensor,
    v_BNTV: Tensor,
    beta_BNT: Tensor,
    log_decay_BNTK: Tensor | None = None,
    state_BNKV: Tensor | None = None,
    *,
    segments_BT: Tensor | None = None,
    real_BT: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Whole rows -> (o_BNTV in the dtype of v, last state_BNKV in float32 or finer).

    log_decay_BNTK: a_t <= 0, finite, float32 or finer; its last axis is 1 for one decay a head, K for one a
    channel. segments_BT: the state is empty at the first token of each segment; a given state belongs to the
    segment of the first token. real_BT: False where a token neither writes nor lets the state decay (padding).
    """
    B, N, T, V = v_BNTV.shape
    wide, C = torch.promote_types(v_BNTV.dtype, torch.float32), min(chunk, T)
    decay = q_BNTK.new_zeros(1, 1, T, 1, dtype=wide) if log_decay_BNTK is None else log_decay_BNTK.to(wide)
    beta = beta_BNT.to(wide)[..., None]
    if real_BT is not None:
        unreal = ~real_BT[:, None, :, None]
        beta, decay = beta.masked_fill(unreal, 0), decay.masked_fill(unreal, 0)
    q, k, v, beta, decay = (cut(x.to(wide), C) for x in (q_BNTK, k_BNTK, v_BNTV, beta, decay))
    segments = None if segments_BT is None else cut_segments(segments_BT, C)[:, 0]  # [B, 1, c, C, 1]
    same = None if segments is None else segments == segments.mT

    sums = decay.cumsum(-2)  # (4) from the start of the chunk to the token, that token included
    weighted = pairs(torch.stack([k, q]), k, sums)
    overlaps, inside = (among(x, same, diagonal) for x, diagonal in zip(weighted, (-1, 0), strict=True))
    overlaps = beta * overlaps  # (5)
    right = torch.cat([beta * v, beta * k * factor(sums, segments, "read")], dim=-1)
    fresh, stale = solve(overlaps, right).split([V, k.shape[-1]], dim=-1)  # (6)
    reads = q * factor(sums, segments, "read")
    writes = k * factor(sums[..., -1:, :] - sums, segments, "write")
    keeps = factor(sums[..., -1:, :], segments, "keep").mT  # [.., c, K or 1, 1]
    state = v.new_zeros(()).expand(B, N, k.shape[-1], V) if state_BNKV is None else state_BNKV.to(wide)
    out = []
    for one in zip(*(x.expand(B, N, *x.shape[2:]).unbind(2) for x in (fresh, stale, inside, reads, writes, keeps)),
                   strict=True):  # fmt: skip
        u, w, p, r, put, keep = one
        u = u - w @ state  # what each token really writes
        out.append(r @ state + p @ u)  # (7)
        state = keep * state + put.mT @ u  # (8)
    return torch.stack(out, 2).flatten(2, 3)[:, :, :T].to(v_BNTV.dtype), state


def solve(overlaps: Tensor, right: Tensor) -> Tensor:
    """(I + overlaps)^-1 right, overlaps strictly lower triangular [.., C, C]."""
    return torch.linalg.solve_triangular(overlaps, right, upper=False, unitriangular=True)


def factor(sums: Tensor, segments: Tensor | None, what: str) -> Tensor:
    """e^sums, or 0 where a border of documents lies between. what: read (state before the chunk in a token),
    write (token in the state after it), keep (state before in the state after)."""
    if segments is None:
        return sums.exp()
    before, after, through = same_segment(segments[:, :, None])
    mask = {"read": before, "write": after, "keep": through}[what][:, :, 0]
    return sums.exp() * mask


def among(weighted: Tensor, same: Tensor | None, diagonal: int) -> Tensor:
    """0 but for tokens j <= i + diagonal of one document, [.., C, C]."""
    C = weighted.shape[-1]
    allowed = torch.ones(C, C, dtype=torch.bool, device=weighted.device).tril(diagonal)
    return weighted.masked_fill(~(allowed if same is None else allowed & same), 0)


def pairs(lefts: Tensor, right: Tensor, sums: Tensor) -> Tensor:
    """sum_c left_i[c] right_j[c] e^(sums_i[c] - sums_j[c]) of all j <= i, anything finite elsewhere.

    [L, .., C, K], [.., C, K] -> [L, .., C, C]. The exponent is never split into e^(sums_i) e^(-sums_j) over a
    whole chunk: the second leaves the range of floats. With a decay for every channel, tokens are cut into blocks.
    Between two blocks the exponent splits at the border before the later one, e^(sums_i - border)
    e^(border - sums_j), both at most 1; inside a block every pair is compared.
    """
    if sums.shape[-1] == 1:
        return (lefts @ right.mT) * (sums - sums.mT).clamp_max(0).exp()
    C = right.shape[-2]
    lefts, right, sums = (
        F.pad(x, (0, 0, 0, -C % BLOCK)).unflatten(-2, (-1, BLOCK)) for x in (lefts, right, sums)
    )
    gaps = (sums[..., :, None, :] - sums[..., None, :, :]).clamp_max(0).exp()
    near = (right[..., None, :, :] * gaps) @ lefts.movedim(0, -2).mT  # [.., blocks, i, j, L]
    near = near.movedim(-1, 0)
    rows = [F.pad(near[..., 0, :, :], (0, right.shape[-3] * BLOCK - BLOCK))]
    for block in range(1, right.shape[-3]):
        border, end = sums[..., block - 1, -1:, :], right.shape[-3] - block - 1
        earlier = (
            right[..., :block, :, :].flatten(-3, -2)
            * (border - sums[..., :block, :, :].flatten(-3, -2)).exp()
        )
        later = lefts[..., block, :, :] * (sums[..., block, :, :] - border).clamp_max(0).exp()
        rows.append(F.pad(torch.cat([later @ earlier.mT, near[..., block, :, :]], -1), (0, end * BLOCK)))
    return torch.cat(rows, -2)[..., :C, :C]
