"""_window: the decoding state of mixers that see a window, and how new tokens are read after it.

The state holds the last W keys and values in order, so that its size does not depend on the length; every step
replaces the tensors (a copy as cheap as reading them), and a mark costs nothing.

Shapes      B batch, G key-value heads, T new tokens, H d_head, W window, F first tokens kept
"""

import torch
from torch import Tensor

from llm.nn.mixers.base import RecurrentState, Step


def last(x_BGSH: Tensor, count_B: Tensor, room: int) -> Tensor:
    """Of `room` old vectors followed by T new ones the `room` that end with each row's `count_B`-th new one."""
    where_BS = count_B[:, None] + torch.arange(room, device=x_BGSH.device)
    rows = torch.arange(len(x_BGSH), device=x_BGSH.device)[:, None]
    return x_BGSH.transpose(1, 2)[rows, where_BS].transpose(1, 2)


def remember(state: RecurrentState, new: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
    """Put new vectors behind those of the state, which keeps its last ones; returns old and new, [B, G, W + T, H]."""
    count_B = step.ends_B - state.lengths_B
    both = {}
    for name, x_BGTH in new.items():
        old = state[name]
        both[name] = torch.cat([old.to(x_BGTH.dtype), x_BGTH], dim=2)
        room, tokens = old.shape[2], x_BGTH.shape[2]
        kept = both[name][:, :, tokens:] if not step.ragged else last(both[name], count_B, room)
        state[name] = kept.to(old.dtype)
    return both


def held(state: RecurrentState, room: int, tokens: int) -> Tensor:
    """1 for the vectors of `remember` that are tokens, 0 for the room still empty, [B, W + T]. Asked before the step
    is counted."""
    place_S = torch.arange(room + tokens, device=state.lengths_B.device)
    return (place_S >= room - state.lengths_B[:, None]).long()


def keep_first(state: RecurrentState, new: dict[str, Tensor], step: Step) -> None:
    """Store new vectors of the first F tokens of each row at their places."""
    for name, x_BGTH in new.items():
        old = state[name]
        F = old.shape[2]
        here = step.positions_BT[:, :, None] == torch.arange(F, device=old.device)  # [B, T, F]
        if step.real_BT is not None:
            here = here & step.real_BT[:, :, None]
        placed = torch.einsum("btf,bgth->bgfh", here.to(old.dtype), x_BGTH.to(old.dtype))
        state[name] = torch.where(here.any(1)[:, None, :, None], placed, old)
