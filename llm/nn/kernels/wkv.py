"""wkv: a running average by channel whose weights fade with distance and grow with the key (RWKV-4).

    y_t = (sum_(i<t) e^(k_i - (t-1-i) w) v_i + e^(u + k_t) v_t) / (the same without v)

Keys may be large, so both sums are kept as multiples of e^(top), top being the largest exponent so far. That
maximum and the sums obey the same kind of recurrence, h_t = keep_t h_(t-1) + new_t: once in the arithmetic of
(max, +) and once in that of (+, *). `scan` computes either in about 2 sqrt(T) steps instead of T: first inside all
chunks side by side, then from chunk to chunk.

Equations   (1)-(6) in docs/nn/kernels/wkv.md; comments below carry the same numbers.
Source      Peng et al. 2023, RWKV, arXiv 2305.13048, section 3.1 and appendix on its recurrent form
Cost        O(T D) time and memory, 3 loops of 2 sqrt(T) steps; state 3 D numbers
Differs     from the paper: the loop over tokens is cut in two
Shapes      B batch, T tokens, D channels, X any trailing dimensions, c chunks of C tokens
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply

EMPTY = -1e30  # the largest exponent of nothing; no infinity, whose differences are no numbers


def empty(batch: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A state [B, 3, D] that has seen nothing: sums with and without v, and the exponent they are multiples of."""
    wide = torch.promote_types(dtype, torch.float32)
    state = torch.zeros(batch, 3, width, device=device, dtype=wide)
    state[:, 2] = EMPTY
    return state


def step(
    k_BTD: Tensor, v_BTD: Tensor, rate_D: Tensor, bonus_D: Tensor, state_B3D: Tensor
) -> tuple[Tensor, Tensor]:
    """One token a row, T = 1 -> (y_BTD in the dtype of v, next state): the equations themselves."""
    above, below, before = state_B3D.unbind(1)
    k, v = k_BTD[:, 0].to(before.dtype), v_BTD[:, 0].to(before.dtype)
    own = k + bonus_D
    top = torch.maximum(before, own)
    old, new = (before - top).exp(), (own - top).exp()
    y = (old * above + new * v) / (old * below + new)  # (1)
    top = torch.maximum(before - rate_D, k)  # (2)
    old, new = (before - rate_D - top).exp(), (k - top).exp()
    state = torch.stack([old * above + new * v, old * below + new, top], 1)  # (3)
    return y[:, None].to(v_BTD.dtype), state


def wkv(
    k_BTD: Tensor,
    v_BTD: Tensor,
    rate_D: Tensor,
    bonus_D: Tensor,
    state_B3D: Tensor,
    *,
    segments_BT: Tensor | None = None,
    real_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Whole rows -> (y_BTD in the dtype of v, last state), computed in the dtype of the state.

    rate_D: w > 0. segments_BT: nothing is known at the first token of each segment but the first, to which the
    given state belongs. real_BT: False where a token neither writes nor lets the sums fade (padding).
    """
    k, v = k_BTD.to(state_B3D.dtype), v_BTD.to(state_B3D.dtype)
    fade, written = -rate_D.expand_as(k), k
    if real_BT is not None:
        fade = fade.masked_fill(~real_BT[..., None], 0)
        written = k.masked_fill(~real_BT[..., None], 2 * EMPTY)  # below even the exponent of nothing
    start = None if segments_BT is None else first_tokens(segments_BT)[..., None]
    with torch.no_grad():  # any exponent gives the same sums, so it needs no gradient
        fades = fade if start is None else fade.masked_fill(start, EMPTY)
        tops = scan(fades, written, state_B3D[:, 2], times=torch.add, plus=torch.maximum)  # (2)
        befores = torch.cat([state_B3D[:, 2:], tops[:, :-1]], 1)
        befores = befores if start is None else befores.masked_fill(start, EMPTY)
    keep, weight = (befores + fade - tops).exp(), (written - tops).exp()
    sums: Tensor = apply(LinearScan, keep, torch.stack([weight * v, weight], 2), state_B3D[:, :2])  # (3)
    above, below = torch.cat([state_B3D[:, None, :2], sums[:, :-1]], 1).unbind(2)
    own = k + bonus_D
    top = torch.maximum(befores, own).detach()
    old, new = (befores - top).exp(), (own - top).exp()
    y = (old * above + new * v) / (old * below + new)  # (1)
    return y.to(v_BTD.dtype), torch.cat([sums[:, -1], tops[:, -1:]], 1)


def first_tokens(segments_BT: Tensor) -> Tensor:
    """True at the first token of every document but the first of a row."""
    changes = segments_BT[:, 1:] != segments_BT[:, :-1]
    return torch.nn.functional.pad(changes, (1, 0), value=False)


class LinearScan(torch.autograd.Function):
    """h_t = keep_t h_(t-1) + new_t; the backward pass is the same recurrence from the end."""

    @staticmethod
    def forward(ctx: Any, keep_BTD: Tensor, new_BT2D: Tensor, state_B2D: Tensor) -> Tensor:
        h_BT2D = scan(keep_BTD[:, :, None], new_BT2D, state_B2D)
        ctx.save_for_backward(keep_BTD, h_BT2D, state_B2D)
        return h_BT2D

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep_BTD, h_BT2D, state_B2D = ctx.saved_tensors
        [d_h] = grads
        later = torch.cat([keep_BTD[:, 1:], torch.zeros_like(keep_BTD[:, :1])], 1).flip(1)[:, :, None]
        d_new = scan(later, d_h.flip(1), torch.zeros_like(state_B2D)).flip(1)  # (4)
        before = torch.cat([state_B2D[:, None], h_BT2D[:, :-1]], 1)
        return (d_new * before).sum(2), d_new, keep_BTD[:, :1] * d_new[:, 0]  # (5)


Operation = Callable[..., Tensor]


def scan(
    keep_BTX: Tensor,
    new_BTX: Tensor,
    state_BX: Tensor,
    *,
    times: Operation = torch.mul,
    plus: Operation = torch.add,
) -> Tensor:
    """h_BTX with h_t = (keep_t times h_(t-1)) plus new_t, h_0 = state (6). keep broadcasts against new in X."""
    T = new_BTX.shape[1]
    C = math.isqrt(T - 1) + 1
    keep, h = chunks(keep_BTX, C), chunks(new_BTX, C)
    for t in range(1, C):  # inside all chunks at once, as if nothing stood before them
        plus(h[:, :, t], times(keep[:, :, t], h[:, :, t - 1]), out=h[:, :, t])
        times(
            keep[:, :, t], keep[:, :, t - 1], out=keep[:, :, t]
        )  # becomes the product since the chunk began
    for index in range(h.shape[1]):  # from chunk to chunk
        plus(h[:, index], times(keep[:, index], state_BX[:, None]), out=h[:, index])
        state_BX = h[:, index, -1]
    return h.flatten(1, 2)[:, :T]


def chunks(x_BTX: Tensor, C: int) -> Tensor:
    """A copy cut into chunks [B, c, C, X]; zeros fill a last one that is short."""
    B, T, *rest = x_BTX.shape
    out = x_BTX.new_zeros(B, T + -T % C, *rest)
    out[:, :T] = x_BTX
    return out.unflatten(1, (-1, C))
