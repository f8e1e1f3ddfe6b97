"""dplr: a delta rule whose correction reads one vector of the state and writes along another, in chunks.

    S_t = (Diag(e^(a_t)) + b_t q_t^T) S_(t-1) + k_t v_t^T,    o_t = S_t^T r_t

"Diagonal plus low rank": what a token does to the old state is a decay by channel and one product of two
vectors. The probe q_t reads the state before it fades; its answer is pushed along b_t. Two forms with the same
result: `step` is the recurrence, one token at a time; `chunked` reads whole rows. What the tokens of a chunk read
is one triangular system; solved, the whole chunk is one affine map of the state, so that the loop over chunks
holds a single matrix product.

Equations   (1)-(8) in docs/nn/kernels/dplr.md; comments below carry the same numbers.
Source      Peng et al. 2025, RWKV-7, arXiv 2503.14456, sections 3 and 4; WY form: Yang et al. 2024,
            arXiv 2406.06484
Cost        O(T (C (K + V) + K (K + V))) time per head; state K V numbers per head
Differs     from delta_rule: the exponents of a chunk are split, e^(A_i) e^(-A_j); see RANGE
Shapes      B batch, N heads, T tokens, K, V widths of key and value, c chunks of C tokens
"""

import torch
from torch import Tensor

from llm.nn.kernels.delta_rule import factor, solve
from llm.nn.kernels.linear_attention import cut, cut_segments

CHUNK = 32
RANGE = 80.0  # e^80 is a float32: what may fade within one chunk


def step(
    r_BNTK: Tensor,
    k_BNTK: Tensor,
    v_BNTV: Tensor,
    probe_BNTK: Tensor,
    push_BNTK: Tensor,
    log_decay_BNTK: Tensor,
    state_BNKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token a row, T = 1 -> (o_BNTV in the dtype of v, next state): the equations themselves."""
    wide = torch.promote_types(v_BNTV.dtype, torch.float32)
    r, k, v, probe, push = (x.to(wide) for x in (r_BNTK, k_BNTK, v_BNTV, probe_BNTK, push_BNTK))
    answer = probe @ state_BNKV  # (1) of the state before it fades
    new = log_decay_BNTK.exp().mT * state_BNKV + push.mT @ answer + k.mT @ v  # (2)
    return (r @ new).to(v_BNTV.dtype), new


def chunked(
    r_BNTK: Tensor,
    k_BNTK: Tensor,
    v_BNTV: Tensor,
    probe_BNTK: Tensor,
    push_BNTK: Tensor,
    log_decay_BNTK: Tensor,
    state_BNKV: Tensor | None = None,
    *,
    segments_BT: Tensor | None = None,
    real_BT: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Whole rows -> (o_BNTV in the dtype of v, last state_BNKV in float32 or finer).

    log_decay_BNTK: -RANGE / chunk <= a_t <= 0, float32 or finer. segments_BT: the state is empty at the first
    token of each segment; a given state belongs to the segment of the first token. real_BT: False where a token
    neither writes nor lets the state decay (padding).
    """
    B, N, T, V = v_BNTV.shape
    wide, C = torch.promote_types(v_BNTV.dtype, torch.float32), min(chunk, T)
    if real_BT is not None:
        unreal = ~real_BT[:, None, :, None]
        k_BNTK, push_BNTK, log_decay_BNTK = (
            x.masked_fill(unreal, 0) for x in (k_BNTK, push_BNTK, log_decay_BNTK)
        )
    r, k, v, probe, push, decay = (
        cut(x.to(wide), C) for x in (r_BNTK, k_BNTK, v_BNTV, probe_BNTK, push_BNTK, log_decay_BNTK)
    )
    segments = None if segments_BT is None else cut_segments(segments_BT, C)[:, 0]  # [B, 1, c, C, 1]

    sums = decay.cumsum(-2)  # (3) from the start of the chunk to the token, that token included
    reads = torch.cat([probe * (sums - decay).exp(), r * sums.exp()], -2)  # probes before the token fades
    puts = torch.cat([push, k], -2)
    weighted = among(reads @ (puts * (-sums).exp().repeat(1, 1, 1, 2, 1)).mT, segments)  # (4)
    probed, read = weighted.split(C, dim=-2)
    seen = factor(torch.zeros_like(sums[..., :1]), segments, "read")
    reads_probe, reads_r = (reads.unflatten(-2, (2, C)) * seen[..., None, :, :]).unbind(-3)

    right = torch.cat([probed[..., C:] @ v, reads_probe], -1)
    fresh, stale = solve(-probed[..., :C], right).split([V, k.shape[-1]], -1)  # (5)
    writes = puts * factor(sums[..., -1:, :] - sums, segments, "write").repeat(1, 1, 1, 2, 1)
    values = torch.cat([fresh, v], -2)
    keep = factor(sums[..., -1:, :], segments, "keep").squeeze(-2).diag_embed()
    carry, written = keep + writes[..., :C, :].mT @ stale, writes.mT @ values  # (6)
    state = v.new_zeros(B, N, k.shape[-1], V) if state_BNKV is None else state_BNKV.to(wide)
    befores = []
    for matrix, new in zip(carry.unbind(2), written.unbind(2), strict=True):
        befores.append(state)
        state = matrix @ state + new  # (7)
    across = reads_r + read[..., :C] @ stale
    o = across @ torch.stack(befores, 2) + read @ values  # (8)
    return o.flatten(2, 3)[:, :, :T].to(v_BNTV.dtype), state


def among(weighted: Tensor, segments: Tensor | None) -> Tensor:
    """0 but where a token sees another of its document, [.., 2 C, 2 C]: probes see earlier tokens, reads also the
    token itself."""
    C = weighted.shape[-1] // 2
    ones = torch.ones(C, C, dtype=torch.bool, device=weighted.device)
    allowed = torch.cat([ones.tril(-1), ones.tril()])
    if segments is not None:
        allowed = allowed & (segments == segments.mT).repeat(1, 1, 1, 2, 1)
    return weighted.masked_fill(~torch.cat([allowed, allowed], -1), 0)
