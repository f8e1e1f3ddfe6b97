"""log_linear: decayed linear attention whose past is kept in log T blocks, each read with a weight of its own.

A query at place t of its document cuts its past like the binary digits of t: one block of 2^j tokens for each
digit j that is 1, the nearest the smallest. A token s before t lies in level bit_length(t xor s); t itself is level 0.

    chunked   whole rows: scores inside a chunk, one product per level between chunks
    step      one token: a binary counter of states
    resume    what tokens read from a counter that holds what came before them;  count: the counter afterwards

Equations   (1)-(7) in docs/nn/kernels/log_linear.md; comments below carry the same numbers.
Source      Guo et al. 2025, Log-Linear Attention, arXiv 2506.04761, sections 3.1-3.3; counter: Fenwick 1994
Cost        chunked O(T (C (K + V) + log(T/C) K V)) per head; step O(log T K V); state K V per level
Differs     from the paper: blocks of chunks are summed by doubling, so that documents may begin at any chunk
Shapes      B batch, T tokens, N heads, K, V widths of key and value, L levels (0 and those of a counter),
            c chunks of C tokens, C a power of two
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.grid import Grid


def bit_length(x: Tensor) -> Tensor:
    """Of integers below 2^53: 0 for 0, j + 1 where j is the highest binary digit that is 1."""
    return torch.frexp(x.double()).exponent


def counter_levels(max_len: int) -> int:
    """States a counter needs for queries at places below `max_len`."""
    return (max_len - 1).bit_length()


def chunked(
    q_BTNK: Tensor,
    k_BTNK: Tensor,
    v_BTNV: Tensor,
    log_decay_BTN: Tensor,
    weight_BTNL: Tensor,
    grid: Grid,
    longest: int,
) -> Tensor:
    """o_BTNV of (2), for documents cut by `grid`, whose last place is below `longest`; decay and weight are wide."""
    q, k, v = (grid.lay(x).transpose(2, 3) for x in (q_BTNK, k_BTNK, v_BTNV))  # [B, c, N, C, K]
    weight = grid.lay(weight_BTNL).transpose(2, 3)
    sums = grid.lay(log_decay_BTN).transpose(2, 3).cumsum(-1)  # [B, c, N, C], from the start of the chunk

    i = torch.arange(grid.C, device=q.device)
    level_CC = bit_length(i[:, None] ^ i).long().tril()  # (1) places in the document would give the same
    future_CC = i > i[:, None]
    decay = (sums[..., None] - sums[..., None, :]).masked_fill(future_CC, float("-inf")).exp()
    inside = decay * weight.gather(-1, level_CC.expand(*sums.shape, grid.C))
    o = (q @ k.mT * inside.to(q.dtype)) @ v  # (3)

    total = sums[..., -1:]
    written = k.mT @ (v * (total - sums).exp().unsqueeze(-1).to(v.dtype))
    lowest = (grid.C - 1).bit_length() + 1
    n_levels = ((longest - 1) // grid.C).bit_length()
    rest = weight[..., lowest : lowest + n_levels]
    o = between(o, q, written.to(sums.dtype), sums, rest, grid.number_Bc)
    return grid.back(o.transpose(2, 3))


def between(o: Tensor, q: Tensor, block: Tensor, sums: Tensor, weight: Tensor, number_Bc: Tensor) -> Tensor:
    """o and what each chunk reads from the blocks of chunks before it, one level after the other (4)-(5).

    block [B, c, N, K, V]: at level j the decayed sum over the 2^j chunks that end with chunk n; fade: their decay.
    """
    fade, (B, c) = sums[..., -1], block.shape[:2]
    # near: decay of the chunks between the block that is read and chunk n
    near = torch.zeros_like(fade).flatten(0, 1)
    o, q, sums, weight = (x.flatten(0, 1) for x in (o, q, sums, weight))  # one axis of all chunks of all rows
    place = torch.arange(B * c, device=q.device).view(B, c)
    for j in range(weight.shape[-1]):
        away_Bc = (number_Bc & (1 << j) - 1) + 1  # chunks from the last one of the block to this one
        has_Bc = (number_Bc >> j & 1).bool() & (place - place[:, :1] >= away_Bc)
        reader = place[has_Bc]
        source = (place - away_Bc)[has_Bc]
        factor = weight[reader, ..., j] * (sums[reader] + near[reader].unsqueeze(-1)).exp()
        state = block.flatten(0, 1)[source].to(q.dtype)
        o.index_add_(0, reader, (q[reader] @ state) * factor.unsqueeze(-1).to(q.dtype))  # (4)
        near = near.index_add(0, reader, fade.flatten(0, 1)[source])
        if 1 << j < c:
            block = block + later(block, 1 << j) * fade[..., None, None].exp()  # (5)
            fade = fade + later(fade, 1 << j)
    return o.unflatten(0, (B, c))


def later(x_Bc: Tensor, n: int) -> Tensor:
    """x moved n places towards the end, zeros before it."""
    return F.pad(x_Bc, (0, 0) * (x_Bc.dim() - 2) + (n, 0))[:, : x_Bc.shape[1]]


# ---------------------------------------------------------------- a counter of states, [B, levels, N, K, V]


def step(
    q_BNK: Tensor,
    k_BNK: Tensor,
    v_BNV: Tensor,
    log_decay_BN: Tensor,
    weight_BNL: Tensor,
    counter: Tensor,
    seen_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token a row, after `seen_B` others -> (o_BNV, counter): the specification of this kernel."""
    q, v, levels = q_BNK.to(counter.dtype), v_BNV.to(counter.dtype), counter.shape[1]
    new_BNKV = k_BNK[..., None] * v[..., None, :]
    counter = counter * log_decay_BN.exp()[:, None, :, None, None]
    read_BNLV = (q[:, None, :, None] @ counter).squeeze(3).transpose(1, 2)
    itself_BNV = (q * k_BNK).sum(-1, keepdim=True) * v
    o = weight_BNL[..., :1] * itself_BNV + (weight_BNL[..., 1 : levels + 1, None] * read_BNLV).sum(2)  # (6)
    # (7) one more in binary: the digits below the lowest 0 become 0, their blocks and the token one block there
    target = bit_length(seen_B ^ (seen_B + 1))[:, None]
    level = torch.arange(1, levels + 1, device=q.device)
    merged = new_BNKV + (counter * _over_states(level < target)).sum(1)
    counter = counter * _over_states(level > target) + merged[:, None] * _over_states(level == target)
    return o.to(v_BNV.dtype), counter


def resume(
    q_BTNK: Tensor, log_decay_BTN: Tensor, weight_BTNL: Tensor, counter: Tensor, positions_BT: Tensor
) -> Tensor:
    """o_BTNV that tokens at `positions_BT` read from a counter of what came before the first of them.

    A block that was level l for the first token is level max(l, bit_length(t xor first)) for token t.
    """
    q = q_BTNK.transpose(1, 2).to(counter.dtype)
    faded_BNT = log_decay_BTN.cumsum(1).transpose(1, 2).exp()
    apart_BT = bit_length(positions_BT ^ positions_BT[:, :1]).long()
    o = torch.zeros((), dtype=counter.dtype, device=q.device)
    for level in range(1, counter.shape[1] + 1):
        index = apart_BT.clamp(min=level, max=weight_BTNL.shape[-1] - 1)[..., None, None]
        weight_BTN1 = weight_BTNL.gather(-1, index.expand(-1, -1, weight_BTNL.shape[2], -1))
        o = o + (q @ counter[:, level - 1]) * (weight_BTN1.transpose(1, 2) * faded_BNT[..., None])
    return o.transpose(1, 2)


def count(
    k_BTNK: Tensor,
    v_BTNV: Tensor,
    log_decay_BTN: Tensor,
    counter: Tensor,
    positions_BT: Tensor,
    ends_B: Tensor,
) -> Tensor:
    """The counter after these tokens, for a query at place `ends_B`; padding has k, v and log-decay 0."""
    k = k_BTNK.permute(0, 2, 3, 1).to(counter.dtype)
    v = v_BTNV.transpose(1, 2).to(counter.dtype)
    after = log_decay_BTN.flip(1).cumsum(1).flip(1) - log_decay_BTN  # decay that follows a token
    fade_BNT = after.transpose(1, 2).exp()
    level_BT = bit_length(ends_B[:, None] ^ positions_BT)
    old = counter * log_decay_BTN.sum(1).exp()[:, None, :, None, None]
    apart_B = bit_length(ends_B ^ positions_BT[:, 0])
    states = []
    for level in range(1, counter.shape[1] + 1):
        mine_BN1T = (fade_BNT * (level_BT == level)[:, None])[..., None, :]
        state = (k * mine_BN1T) @ v
        same = torch.arange(1, counter.shape[1] + 1, device=k.device).clamp(min=apart_B[:, None]) == level
        states.append(state + (old * _over_states(same)).sum(1))
    return torch.stack(states, dim=1)


def _over_states(mask_Bl: Tensor) -> Tensor:
    return mask_Bl[:, :, None, None, None]
