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
    """What a mixer may know besides its input.

    positions_BT: place of each token in its own document (or in the row, see `Position.relative`),
    integers [B, T] or [T]. segments_BT: document number of each token, 0 = padding, or None for one
    document a row. A token may only see tokens of its own segment.
    """

    positions: Tensor
    segments_BT: Tensor | None = None
    mask_BTS: Tensor | None = None  # additive, from `segment_mask`, made once for all layers


class State:
    """What a mixer remembers of the tokens it has seen, one per layer.

    `lengths_B` counts the tokens each row holds. `checkpoint` returns a mark, `rollback(mark)` forgets
    everything since then (speculative decoding), `nbytes` is what the docs page of the mixer claims.
    """

    lengths_B: Tensor

    @abstractmethod
    def checkpoint(self) -> Any: ...

    @abstractmethod
    def rollback(self, mark: Any) -> None: ...

    @property
    @abstractmethod
    def nbytes(self) -> int: ...


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
    def decode(self, x_B1D: Tensor, position: Position, state: S) -> Tensor:
        """One more token for every row -> y_B1D; grows `state` in place."""

    def prefill(self, x_BTD: Tensor, position: Position, state: S, lengths_B: Tensor) -> Tensor:
        """The next `lengths_B[b]` tokens of row b (right-padded to T) -> y_BTD; rows may start non-empty."""
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
