"""_window: the decoding state of mixers that see a window, and how new tokens are read after it.

The state holds the last W keys and values in order, so that its size does not depend on the length; every step
replaces the tensors (a copy as cheap as reading them), and a mark costs nothing.

Shapes      B batch, G key-value heads, T new tokens, H d_head, W window, M marked tokens kept
"""

import torch
from torch import Tensor

from llm.nn.kernels.banded import take
from llm.nn.mixers.base import RecurrentState, Step


def last(x_BGSH: Tensor, count_B: Tensor, room: int) -> Tensor:
    """Of `room` old vectors followed by T new ones the `room` that end with each row's `count_B`-th new one."""
    where_BS = count_B[:, None] + torch.arange(room, device=x_BGSH.device)
    return take(x_BGSH, where_BS)


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


def keep(state: RecurrentState, new: dict[str, Tensor], step: Step, places_M: Tensor) -> None:
    """Store those new vectors whose tokens stand at `places_M` of their row, each in the slot of its place."""
    begins_B1, ends_B1 = step.positions_BT[:, :1], step.ends_B[:, None]
    here_BM = (places_M >= begins_B1) & (places_M < ends_B1)
    for name, x_BGTH in new.items():
        found = take(x_BGTH, (places_M - begins_B1).clamp(0, x_BGTH.shape[2] - 1))
        state[name] = torch.where(here_BM[:, None, :, None], found.to(state[name].dtype), state[name])
