"""base: the interface of a sequence mixer and of its decoding state.

Shapes      B batch, T query tokens, S cached tokens, D d_model
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from llm.nn.kernels.token import Module
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where in the model a mixer or an FFN is built. layer: 0 .. n_layers - 1; max_len: of the model;
    norm: the Config of the model's normalisation, for layers inside the mixer (`registry.build(norm, width)`).
    turn: how many earlier layers are built of the same Config, None where all of them are."""

    d_model: int
    layer: int
    n_layers: int
    max_len: int
    norm: Any
    turn: int | None = None

    @property
    def first(self) -> bool:
        """No earlier layer of the same Config can have left anything in `shared`."""
        return (self.layer if self.turn is None else self.turn) == 0


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a mixer may know besides its input while whole rows are read; made once for all layers.

    positions: place of each token in its own document (or in the row, see `Position.relative`),
    integers [B, T] or [T]; angles: what `position.rotate` needs for them. segments_BT: document number
    of each token, 0 = padding, or None for one document a row; the numbers of a row never come back once
    they have changed. A token may only see tokens of its own segment. dtype: of the activations.
    losses: scalars that a mixer adds to the training loss, each a mean over tokens (DSA's indexer).
    shared: what a layer leaves for later ones, by name (the values of RWKV-7's first layer).
    """

    positions: Tensor
    dtype: torch.dtype
    angles: Any = None  # of `position.angles`
    segments_BT: Tensor | None = None
    losses: list[Tensor] = field(default_factory=list)
    shared: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def mask_BTS(self) -> Tensor | None:  # noqa: N802  # shapes are part of names
        """Additive mask [B, 1, T, T] of `segment_mask`, or None: made for the first mixer that asks."""
        return None if self.segments_BT is None else segment_mask(self.segments_BT, self.dtype)


class State:
    """What a mixer remembers of the tokens it has seen, one per layer.

    `lengths_B` counts the tokens each row holds; `longest` is the same for the longest row, or more, known
    without asking the device; `even` is True where all rows are known to hold `longest`; `room` is how many
    a row may hold. `checkpoint` returns a mark, `rollback(mark)` forgets everything since then (speculative
    decoding), `nbytes` is what the docs page of the mixer claims.
    """

    lengths_B: Tensor
    longest: int = 0
    even: bool = True
    room: int

    def advance(self, step: "Step") -> None:
        """Count the tokens of a step as seen; every mixer's `prefill` and `decode` calls it once."""
        self.lengths_B, self.longest = step.ends_B, step.longest
        self.even = self.even and not step.ragged

    @abstractmethod
    def checkpoint(self) -> Any: ...

    @abstractmethod
    def rollback(self, mark: Any) -> None: ...

    @property
    @abstractmethod
    def nbytes(self) -> int: ...


class RecurrentState(State):
    """A state whose size does not depend on the length: named tensors, all replaced at every step.

    A mark is a copy of the mapping: `step` code must assign new tensors (`state["S"] = …`) and never write
    into the old ones, so that a mark costs nothing.
    """

    def __init__(self, tensors: dict[str, Tensor], room: int) -> None:
        self.tensors, self.room = tensors, room
        first = next(iter(tensors.values()))
        self.lengths_B = torch.zeros(first.shape[0], dtype=torch.long, device=first.device)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.tensors[name] = tensor

    def checkpoint(self) -> tuple[Tensor, int, dict[str, Tensor]]:
        return self.lengths_B, self.longest, dict(self.tensors)

    def rollback(self, mark: tuple[Tensor, int, dict[str, Tensor]]) -> None:
        self.lengths_B, self.longest, self.tensors = mark[0], mark[1], dict(mark[2])

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all layers share while the next T tokens of every row are read; made once, by `next_step`.

    positions_BT: place of each new token in its row, which is also its index in a cache. ends_B: tokens
    each row holds afterwards; longest: a bound of them. angles: of `position.angles`. dtype: of the
    activations. ragged: False where all T tokens of every row count. shared: as in `Context`. place: the one
    place of the only new token of every row, for writing it without an index; None where there are more
    tokens or places.
    """

    positions_BT: Tensor
    ends_B: Tensor
    longest: int
    angles: Any
    position: Position
    dtype: torch.dtype
    ragged: bool
    shared: dict[str, Tensor] = field(default_factory=dict)
    place: int | None = None

    @cached_property
    def real_BT(self) -> Tensor | None:  # noqa: N802
        """True where a token counts, False for the padding of a short row; None where all of them count."""
        return self.positions_BT < self.ends_B[:, None] if self.ragged else None

    @cached_property
    def mask(self) -> Tensor | None:
        """Additive mask [B, 1 or N, T, longest] over a cache whose index is the position: -inf where a key
        lies after the query, plus the bias of the position; None where it would add nothing."""
        index_S = torch.arange(self.longest, device=self.positions_BT.device)
        mask = self.position.bias(self.positions_BT, index_S)
        if (
            self.place is None and self.positions_BT.numel() > 1
        ):  # else the token comes last and sees everything
            later = (index_S > self.positions_BT[:, :, None])[:, None]
            start = torch.zeros(later.shape, device=later.device) if mask is None else mask
            mask = start.masked_fill(later, float("-inf"))
        return None if mask is None else mask.to(self.dtype)


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
    return Step(
        positions_BT=positions_BT,
        ends_B=state.lengths_B + (tokens if lengths_B is None else lengths_B),
        longest=longest,
        angles=position.angles(positions_BT, dtype),
        position=position,
        dtype=dtype,
        ragged=lengths_B is not None,
        place=state.longest if tokens == 1 and state.even and lengths_B is None else None,
    )


def rows_of(x_B1D: Tensor) -> Tensor:
    """One token of every row as a matrix [B, D], or as a vector [D] where there is one row only.

    A linear layer takes all three and gives the same bits; with a matrix a product costs less to start than
    with three dimensions, with a vector still less."""
    return x_B1D.squeeze((0, 1))


S = TypeVar("S", bound=State)


class Mixer(Module, Generic[S]):
    """Mixes information along the sequence; the only part of a block that looks at other tokens.

    `decode` is the specification; `forward` and `prefill` are faster ways to the same numbers. Facts of the
    class, on which the laws and the model rely:

    causal        a token never depends on a later one
    sees_all      every token depends on all tokens before it (False: a window, a choice of blocks)
    chooses       scores decide which tokens it reads, so that rounding may decide otherwise
    rotates       widths of the vectors it gives to `position.rotate`, set by the constructor; empty for none
    takes_bias    adds `position.bias` to its scores (what ALiBi needs); n_heads counts the rows of it
    """

    causal = True
    sees_all = True
    chooses = False
    rotates: Sequence[int] = ()
    takes_bias = False
    n_heads: int = 1

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

    def after_step(self) -> None:
        """Called once after every optimizer step, for what changes by rule (random features drawn anew)."""


def after_step(model: nn.Module) -> None:
    """`after_step` of every mixer of a model."""
    for module in model.modules():
        if isinstance(module, Mixer):
            module.after_step()


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
