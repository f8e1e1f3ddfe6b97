"""block_attention: every query over a few blocks of keys of its own choice, computed block by block.

A block is read by the queries that chose it, gathered into tiles, as experts read their tokens; each query then
joins the results of its blocks by their log-sum-exp. No tensor is T x T, and the backward pass computes the
probabilities again.

Equations   (1)-(8) in docs/nn/kernels/block_attention.md; comments below carry the same numbers.
Source      Lu et al. 2025, MoBA, arXiv 2502.13189, section 2.2 (algorithm 1); joining: Milakov & Gimelshein
            2018, arXiv 1805.02867; backward pass as in Dao 2022, arXiv 2205.14135
Cost        O(T K C N H) time, O(T K N H) memory; at most one tile of empty places a block
Shapes      B batch, N query heads, G key-value heads, T queries, H of a key, V of a value, K chosen blocks, c blocks
            of C keys, P pairs of a query and a block, n tiles of Q pairs, S cached tokens
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply, high
from llm.nn.kernels.selected import tiles

TILE = 32  # pairs of a tile; changes the speed, not the result


def attend_blocks(
    q_BNTH: Tensor, k_BcCGH: Tensor, v_BcCGV: Tensor, chosen_BNTK: Tensor, limit_BNTK: Tensor
) -> Tensor:
    """Outputs [B, N, T, V]; query t of head n sees keys 0 .. limit of each of its chosen blocks in one softmax.

    chosen_BNTK: different blocks of 0 .. c - 1; limit_BNTK: below 0 where a choice does not count. At least one
    choice of every query counts.
    """
    out_BNTV: Tensor = apply(BlockAttention, q_BNTH, k_BcCGH, v_BcCGV, chosen_BNTK, limit_BNTK)
    return out_BNTV


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a block, sorted by block; each block begins a tile, whose empty places are pairs of a
    query that counts for nothing, one behind the last."""

    pair_nQ: Tensor  # index in [B, N, T, K]
    query_nQ: Tensor  # index in [B, N, T]; in an empty place any
    limit_nQ: Tensor  # last key seen; -1 in an empty place
    block_n: Tensor  # index in [B, G, c]


def pair_up(chosen_BNTK: Tensor, limit_BNTK: Tensor, G: int, c: int) -> Pairs:
    """All pairs that count."""
    B, N, T, K = chosen_BNTK.shape
    group_BN = torch.arange(B * G, device=chosen_BNTK.device).view(B, G).repeat_interleave(N // G, dim=1)
    pair_P = (limit_BNTK >= 0).flatten().nonzero()[:, 0]  # their number is a number the host must know
    block_P = (group_BN[..., None, None] * c + chosen_BNTK).flatten()[pair_P]
    order = block_P.argsort(stable=True)
    counts = block_P.bincount(minlength=B * G * c)
    used = (counts + TILE - 1) // TILE
    first_pair, first_tile = counts.cumsum(0) - counts, used.cumsum(0) - used
    block_n = torch.arange(len(used), device=used.device).repeat_interleave(used)
    owner = block_P[order]
    place_P = first_tile[owner] * TILE + torch.arange(len(order), device=order.device) - first_pair[owner]
    nobody = chosen_BNTK.numel()
    pair_nQ = pair_P.new_full((len(block_n) * TILE,), nobody).scatter(0, place_P, pair_P[order])
    limits = torch.cat([limit_BNTK.flatten(), limit_BNTK.new_full((1,), -1)])
    pair_nQ = pair_nQ.view(-1, TILE)
    return Pairs(pair_nQ, (pair_nQ // K).clamp_max(B * N * T - 1), limits[pair_nQ], block_n)


class BlockAttention(torch.autograd.Function):
    """A batch of small products for each range of tiles."""

    @staticmethod
    def forward(
        ctx: Any, q_BNTH: Tensor, k_BcCGH: Tensor, v_BcCGV: Tensor, chosen_BNTK: Tensor, limit_BNTK: Tensor
    ) -> Tensor:
        B, N, T, K = chosen_BNTK.shape
        (c, C, G, H), V = k_BcCGH.shape[1:], v_BcCGV.shape[-1]
        pairs = pair_up(chosen_BNTK, limit_BNTK, G, c)
        q_MH = q_BNTH.reshape(-1, H)  # M = B N T
        k_bCH, v_bCV = (x.permute(0, 3, 1, 2, 4).flatten(0, 2) for x in (k_BcCGH, v_BcCGV))
        places = chosen_BNTK.numel() + 1
        lse_P = q_MH.new_full((places,), float("-inf"), dtype=high(q_MH.dtype))
        out_PV = v_bCV.new_zeros(places, V)
        for part in parts(pairs, max(C, H, V)):
            q_nQH, k_nCH = fetch(q_MH, part.query_nQ), k_bCH.index_select(0, part.block_n)
            scores_nQC = masked_scores(q_nQH, k_nCH, part.limit_nQ)
            top_nQ1 = scores_nQC.amax(-1, keepdim=True).clamp_min_(torch.finfo(scores_nQC.dtype).min)
            weights_nQC = scores_nQC.sub_(top_nQ1).exp_()
            total_nQ1 = weights_nQC.sum(-1, keepdim=True)
            lse_P[part.pair_nQ.flatten()] = (top_nQ1 + total_nQ1.log()).flatten()  # (2)
            weights_nQC /= total_nQ1
            out_nQV = weights_nQC.to(v_bCV.dtype) @ v_bCV.index_select(0, part.block_n)
            out_PV.index_copy_(0, part.pair_nQ.flatten(), out_nQV.flatten(0, 1))
        lse_MK = lse_P[:-1].view(-1, K)
        joint_M = lse_MK.logsumexp(-1)
        share_MK = (lse_MK - joint_M[:, None]).exp_()  # (3)
        out_MV = out_PV[:-1].view(-1, K, V).mul_(share_MK.to(out_PV.dtype)[..., None]).sum(1)  # (4)
        ctx.save_for_backward(
            q_MH, k_bCH, v_bCV, out_MV, joint_M,
            pairs.pair_nQ, pairs.query_nQ, pairs.limit_nQ, pairs.block_n,
        )  # fmt: skip
        ctx.shapes = q_BNTH.shape, (B, G, c), K
        return out_MV.view(B, N, T, V)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_MH, k_bCH, v_bCV, out_MV, joint_M, *tables = ctx.saved_tensors
        of_q, of_blocks, K = ctx.shapes
        wide, (C, H), V = high(q_MH.dtype), k_bCH.shape[1:], v_bCV.shape[-1]
        d_out_MV = grads[0].reshape(-1, V)
        mean_M = (d_out_MV * out_MV).sum(-1, dtype=wide)
        d_q_PH = q_MH.new_zeros(len(q_MH) * K + 1, H)
        # a key is the sum of many gradients: added up in float32
        d_k, d_v = (torch.zeros_like(x, dtype=wide) for x in (k_bCH, v_bCV))
        for part in parts(Pairs(*tables), max(C, H, V)):
            block = part.block_n
            q_nQH, d_out_nQV = fetch(q_MH, part.query_nQ), fetch(d_out_MV, part.query_nQ)
            k_nCH, v_nCV = k_bCH.index_select(0, block), v_bCV.index_select(0, block)
            scores_nQC = masked_scores(q_nQH, k_nCH, part.limit_nQ)
            probs_nQC = scores_nQC.sub_(joint_M[part.query_nQ][..., None]).exp_()
            d_v.index_add_(0, block, (probs_nQC.to(q_MH.dtype).mT @ d_out_nQV).to(wide))  # (5)
            d_scores = (d_out_nQV @ v_nCV.mT).to(wide).sub_(mean_M[part.query_nQ][..., None])
            d_scores = d_scores.mul_(probs_nQC).mul_(1 / math.sqrt(H)).to(q_MH.dtype)  # (6)
            d_k.index_add_(0, block, (d_scores.mT @ q_nQH).to(wide))  # (7)
            d_q_PH.index_copy_(0, part.pair_nQ.flatten(), (d_scores @ k_nCH).flatten(0, 1))
        d_q = d_q_PH[:-1].view(-1, K, H).sum(1)  # (8)
        d_k, d_v = (x.unflatten(0, of_blocks).permute(0, 2, 3, 1, 4).to(q_MH.dtype) for x in (d_k, d_v))
        return d_q.view(of_q), d_k, d_v, None, None


def parts(pairs: Pairs, width: int) -> Iterator[Pairs]:
    """The tiles in ranges that make no large tensor (`selected.tiles`)."""
    for begin, end in tiles(len(pairs.block_n), TILE * width):
        yield Pairs(
            pairs.pair_nQ[begin:end],
            pairs.query_nQ[begin:end],
            pairs.limit_nQ[begin:end],
            pairs.block_n[begin:end],
        )


def masked_scores(q_nQH: Tensor, k_nCH: Tensor, limit_nQ: Tensor) -> Tensor:
    """Scores of each pair over the keys of its block, -inf behind its limit, in float32 or finer (1)."""
    scores_nQC = (q_nQH @ k_nCH.mT).to(high(q_nQH.dtype))
    hidden_nQC = torch.arange(k_nCH.shape[1], device=limit_nQ.device) > limit_nQ[..., None]
    return scores_nQC.mul_(1 / math.sqrt(q_nQH.shape[-1])).masked_fill_(hidden_nQC, float("-inf"))


def fetch(x_MH: Tensor, query_nQ: Tensor) -> Tensor:
    """The vectors of the queries of every tile, [n, Q, H]."""
    return x_MH.index_select(0, query_nQ.flatten()).unflatten(0, (-1, TILE))


def attend_blocks_cached(
    q_BNTH: Tensor, k_BSGH: Tensor, v_BSGV: Tensor, chosen_BMTK: Tensor, limit_BMTK: Tensor, C: int
) -> Tensor:
    """The same for a few queries over a cache, of which nothing but the chosen blocks of C tokens is read.

    chosen_BMTK: one choice for each head (M = N) or for all heads of a group (M = G).
    """
    (B, N, T, H), (S, G), (M, K) = (
        q_BNTH.shape,
        k_BSGH.shape[1:3],
        (chosen_BMTK.shape[1], chosen_BMTK.shape[3]),
    )
    device = q_BNTH.device
    inside_C = torch.arange(C, device=device)
    where_BMTKC = (chosen_BMTK[..., None] * C + inside_C).clamp_(0, S - 1)
    row_B = torch.arange(B, device=device).view(B, 1, 1, 1, 1) * S
    group_M = torch.arange(M, device=device).view(1, M, 1, 1, 1) * G // M
    index = ((row_B + where_BMTKC) * G + group_M).flatten()
    k, v = (x.view(B * S * G, -1).index_select(0, index).view(B * M * T, K * C, -1) for x in (k_BSGH, v_BSGV))
    q = q_BNTH.unflatten(1, (M, N // M)).transpose(2, 3).flatten(0, 2).to(k.dtype)  # [B M T, N / M, H]
    seen = (inside_C <= limit_BMTK[..., None]).view(B * M * T, 1, K * C)
    scores = (q @ k.mT / math.sqrt(H)).masked_fill_(~seen, float("-inf"))
    out = (torch.softmax(scores, dim=-1) @ v).view(B, M, T, N // M, -1)
    return out.transpose(2, 3).flatten(1, 2).to(q_BNTH.dtype)
