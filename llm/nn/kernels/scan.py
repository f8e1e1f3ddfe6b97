"""scan: the selective scan, a linear recurrence whose decay differs by channel, state number and token.

    h_t = e^(dt_t A) h_(t-1) + dt_t u_t B_t,     y_t = C_t . h_t

No matrix product computes it: the decay has an axis of its own for every state number. The loop over tokens is
written out, forward and backward, over chunks: within one the factors are computed for all tokens at once, and
only the state at its beginning is kept for the backward pass, which computes the rest again.

Equations   (1)-(6) in docs/nn/kernels/scan.md; comments below carry the same numbers.
Source      Gu & Dao 2023, Mamba, arXiv 2312.00752, sections 3.2 and 3.3 (recomputation)
Cost        O(T E N) time; memory O(B E N (T / C + C)) instead of O(B T E N)
Differs     from the paper's kernel: chunks stand for the blocks of fast memory; no parallel scan inside them
Shapes      B batch, T tokens, E channels, N state numbers of a channel, C tokens of a chunk
"""

from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply

CHUNK = 16


def selective_scan(
    u_BTE: Tensor,
    dt_BTE: Tensor,
    rate_EN: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    state_BEN: Tensor,
    keep_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(y_BTE, last state_BEN), all in the dtype of dt.

    rate_EN: A, below 0. keep_BT: 0 where the state before the token is forgotten (a document begins), else 1.
    A token with dt = 0 neither writes nor lets the state fade.
    """
    y_BTE, last_BEN = apply(SelectiveScan, u_BTE, dt_BTE, rate_EN, b_BTN, c_BTN, state_BEN, keep_BT)
    return y_BTE, last_BEN


def step(
    u_BE: Tensor, dt_BE: Tensor, rate_EN: Tensor, b_BN: Tensor, c_BN: Tensor, state_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    """One token a row -> (y_BE, next state): the equations themselves (1), (2)."""
    decay_BEN = (dt_BE[..., None] * rate_EN).exp()
    state_BEN = decay_BEN * state_BEN + (dt_BE * u_BE)[..., None] * b_BN[:, None]
    return torch.einsum("ben,bn->be", state_BEN, c_BN), state_BEN


class SelectiveScan(torch.autograd.Function):
    """The loop, chunk by chunk; the backward pass runs the same recurrence from the end."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, state: Tensor, keep: Any
    ) -> Any:
        y, starts = torch.empty_like(dt), []
        for begin in range(0, dt.shape[1], CHUNK):
            part = slice(begin, begin + CHUNK)
            starts.append(state)
            states, _ = _states(u, dt, rate, b, keep, part, state)
            y[:, part] = torch.einsum("bten,btn->bte", states, c[:, part])  # (2)
            state = states[:, -1]
        ctx.save_for_backward(u, dt, rate, b, c, keep, *starts)
        return y, state.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        u, dt, rate, b, c, keep, *starts = ctx.saved_tensors
        d_y, d_state = grads
        d_u, d_dt, d_b, d_c = (torch.empty_like(x) for x in (u, dt, b, c))
        d_rate = torch.zeros_like(rate)
        for index in reversed(range(len(starts))):
            part = slice(index * CHUNK, (index + 1) * CHUNK)
            states, decay = _states(u, dt, rate, b, keep, part, starts[index])
            d_states = torch.einsum("bte,btn->bten", d_y[:, part], c[:, part])
            d_states[:, -1] += d_state
            for t in range(d_states.shape[1] - 2, -1, -1):
                d_states[:, t].addcmul_(decay[:, t + 1], d_states[:, t + 1])  # (3)
            before = torch.cat([starts[index][:, None], states[:, :-1]], dim=1)
            d_exponent = d_states * before * decay  # (4) of the loss by dt A
            dt_part, written = dt[:, part], dt[:, part] * u[:, part]
            d_written = torch.einsum("bten,btn->bte", d_states, b[:, part])
            d_u[:, part] = d_written * dt_part
            d_dt[:, part] = d_written * u[:, part] + torch.einsum("bten,en->bte", d_exponent, rate)  # (5)
            d_rate += torch.einsum("bten,bte->en", d_exponent, dt_part)
            d_b[:, part] = torch.einsum("bten,bte->btn", d_states, written)
            d_c[:, part] = torch.einsum("bten,bte->btn", states, d_y[:, part])  # (6)
            d_state = decay[:, 0] * d_states[:, 0]
        return d_u, d_dt, d_rate, d_b, d_c, d_state, None


def _states(
    u: Tensor, dt: Tensor, rate: Tensor, b: Tensor, keep: Tensor | None, part: slice, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The state after every token of a chunk and the decay into it, [B, C, E, N] each (1)."""
    decay = (dt[:, part, :, None] * rate).exp_()
    if keep is not None:
        decay = decay * keep[:, part, None, None]
    states = (dt[:, part] * u[:, part])[..., None] * b[:, part, None]
    for t in range(states.shape[1]):
        states[:, t].addcmul_(decay[:, t], state)
        state = states[:, t]
    return states, decay
