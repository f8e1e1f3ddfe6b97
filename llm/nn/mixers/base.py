"""base: the interface of a sequence mixer and of its decoding state.

Shapes      B batch, T query tokens, S cached tokens, D d_model
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a mixer may know besides its input while whole rows are read; made once for all layers.

    positions: place of each token in its own document (or in the row, see `Position.relative`),
    integers [B, T] or [T]; angles: what `position.rotate` needs for them. segments_BT: document number
    of each token, 0 = padding, or None for one document a row. A token may only see tokens of its own
    segment.
    """

    positions: Tensor
    angles: Any = None  # of `position.angles`
    segments_BT: Tensor | None = None
    mask_BTS: Tensor | None = None  # additive, from `segment_mask`


class State:
    """What a mixer remembers of the tokens it has seen, one per layer.

    `lengths_B` counts the tokens each row holds; `longest` is the same for the longest row, or more, known
    without asking the device; `room` is how many a row may hold. `checkpoint` returns a mark,
    `rollback(mark)` forgets everything since then (speculative decoding), `nbytes` is what the docs page
    of the mixer claims.
    """

    lengths_B: Tensor
    longest: int = 0
    room: int

    @abstractmethod
    def checkpoint(self) -> Any: ...

    @abstractmethod
    def rollback(self, mark: Any) -> None: ...

    @property
    @abstractmethod
    def nbytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all layers share while the next T tokens of every row are read; made once, by `next_step`.

    positions_BT: place of each new token in its row, which is also its index in a cache. ends_B: tokens
    each row holds afterwards; longest: a bound of them. mask: additive [B, 1 or N, T, longest], -inf where
    a cached key lies after the query, plus the bias of the position; None where it would add nothing.
    angles: of `position.angles`.
    """

    positions_BT: Tensor
    ends_B: Tensor
    longest: int
    mask: Tensor | None
    angles: Any


def next_step(
    state: State, position: Position, tokens: int, dtype: torch.dtype, lengths_B: Tensor | None = None
) -> Step:
    """The step that reads `tokens` more of each row, of which the first `lengths_B` (default: all) count.

    Raises:
        ValueError: no room for them in the state.
    """
    longest = state.longest + tokens
    if longest > state.room:
        raise ValueError(
            f"model.mixer: state holds {state.room} tokens, asked for {longest}; "
            "raise max_len or shorten the prompt"
        )
    positions_BT = state.lengths_B[:, None] + torch.arange(tokens, device=state.lengths_B.device)
    index_S = torch.arange(longest, device=positions_BT.device)
    mask = position.bias(positions_BT, index_S)
    if positions_BT.numel() > 1:  # one token of one row comes last and sees everything
        later = (index_S > positions_BT[:, :, None])[:, None]
        start = torch.zeros(later.shape, device=later.device) if mask is None else mask
        mask = start.masked_fill(later, float("-inf"))
    return Step(
        positions_BT=positions_BT,
        ends_B=state.lengths_B + (tokens if lengths_B is None else lengths_B),
        longest=longest,
        mask=None if mask is None else mask.to(dtype),
        angles=position.angles(positions_BT, dtype),
    )


S = TypeVar("S", bound=State)


class Mixer(nn.Module, Generic[S]):
    """Mixes information along the sequence; the only part of a block that looks at other tokens.

    `causal` is a fact of the class that the laws rely on. `decode` is the specification; `forward` and
    `prefill` are faster ways to the same numbers.
    """

    causal = True

    @abstractmethod
    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        """All tokens of a training row at once -> y_BTD."""

    @abstractmethod
    def init_state(self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype) -> S:
        """An empty state with room for `max_len` tokens a row."""

    @abstractmethod
    def decode(self, x_B1D: Tensor, position: Position, state: S, step: Step) -> Tensor:
        """One more token for every row -> y_B1D; grows `state` in place."""

    def prefill(self, x_BTD: Tensor, position: Position, state: S, step: Step) -> Tensor:
        """The next tokens of every row, right-padded to T -> y_BTD; rows may start non-empty."""
        raise ValueError(f"{type(self).__name__}: no prefill of ragged rows")


def segment_mask(segments_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, T, T]: 0 where query i may see key j (j <= i, same segment), -inf elsewhere.

    A padding token sees itself, so that no row of the softmax is empty.
    """
    T = segments_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=segments_BT.device).tril()
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    real_BT = segments_BT != 0
    itself_TT = torch.eye(T, dtype=torch.bool, device=segments_BT.device)
    allowed = (causal_TT & same_BTT & real_BT[:, :, None]) | itself_TT
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments_BT.device)
    return mask.masked_fill_(~allowed, float("-inf"))[:, None]
