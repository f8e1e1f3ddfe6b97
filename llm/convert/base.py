"""base: weights between this project's model folder and that of `transformers`, in both directions.

An architecture is one file: which of its configurations this project can express (`Architecture.ours`,
`theirs`), and a list of rules that pair tensors. Each rule can be read from either side, so the two directions
cannot drift apart, and every tensor of both sides must be named by exactly one rule.

    class Rename     one tensor, two names
    class Fuse       one tensor here, several there, stacked by rows
    class Deal       some tensors here, some there, whose rows are the same blocks in another order
    class Stack      one tensor here, as many there as experts, or a few for each of them
    class Fixed      a tensor here whose value is implied there (the gain before an FFN that does not exist)
    class Implied    a tensor there whose value is implied here (a table that follows from the config)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Change = Callable[[Tensor], Tensor]


def same(tensor: Tensor) -> Tensor:
    """No change."""
    return tensor


class Rule(ABC):
    """Pairs tensors of the two sides."""

    @abstractmethod
    def ours(self) -> list[str]:
        """The tensor names it makes here."""

    @abstractmethod
    def theirs(self) -> list[str]:
        """The tensor names it makes there."""

    @abstractmethod
    def to_ours(self, weights: Weights) -> dict[str, Tensor]: ...

    @abstractmethod
    def to_theirs(self, weights: Weights) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Rename(Rule):
    """name here = change(name there); back is the inverse of change."""

    here: str
    there: str
    change: Change = same
    back: Change = same

    def ours(self) -> list[str]:
        return [self.here]

    def theirs(self) -> list[str]:
        return [self.there]

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        return {self.here: self.change(weights[self.there])}

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        return {self.there: self.back(weights[self.here])}


@dataclass(frozen=True)
class Fuse(Rule):
    """change(tensor here) has the rows of several tensors there: (name, rows) each; back is the inverse of change."""

    here: str
    parts: Sequence[tuple[str, int]]
    change: Change = same
    back: Change = same

    def ours(self) -> list[str]:
        return [self.here]

    def theirs(self) -> list[str]:
        return [name for name, _ in self.parts]

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        for name, rows in self.parts:
            expect_rows(name, weights[name], rows)
        return {self.here: self.change(torch.cat([weights[name] for name, _ in self.parts]))}

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        pieces = self.back(weights[self.here]).split([rows for _, rows in self.parts])
        return {name: piece for (name, _), piece in zip(self.parts, pieces, strict=True)}


@dataclass(frozen=True)
class Deal(Rule):
    """Blocks of rows that stand one after the other here and are dealt out by heads there.

    blocks: (heads, rows of a head) by name. here: blocks of each tensor, in order. there: likewise, of an equal number
    of heads: the rows of head 0 of every block, then those of head 1, …
    """

    blocks: Mapping[str, tuple[int, int]]
    here: Mapping[str, Sequence[str]]
    there: Mapping[str, Sequence[str]]

    def ours(self) -> list[str]:
        return list(self.here)

    def theirs(self) -> list[str]:
        return list(self.there)

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, names in self.there.items():
            heads, rows = self.blocks[names[0]][0], [self.blocks[block][1] for block in names]
            expect_rows(name, weights[name], heads * sum(rows))
            dealt = weights[name].unflatten(0, (heads, -1)).split(rows, dim=1)
            found |= {block: piece.flatten(0, 1) for block, piece in zip(names, dealt, strict=True)}
        return {name: torch.cat([found[block] for block in names]) for name, names in self.here.items()}

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, names in self.here.items():
            pieces = weights[name].split([math.prod(self.blocks[block]) for block in names])
            by_head = [p.unflatten(0, self.blocks[block]) for block, p in zip(names, pieces, strict=True)]
            found |= dict(zip(names, by_head, strict=True))
        return {
            name: torch.cat([found[block] for block in names], dim=1).flatten(0, 1)
            for name, names in self.there.items()
        }


@dataclass(frozen=True)
class Stack(Rule):
    """One tensor [E, …] here; there for each of E the tensors of equal height that its rows are."""

    here: str
    there: Sequence[Sequence[str]]

    def ours(self) -> list[str]:
        return [self.here]

    def theirs(self) -> list[str]:
        return [name for names in self.there for name in names]

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        return {self.here: torch.stack([torch.cat([weights[n] for n in names]) for names in self.there])}

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        pieces = [piece for one in weights[self.here].unbind() for piece in one.chunk(len(self.there[0]))]
        return dict(zip(self.theirs(), pieces, strict=True))


@dataclass(frozen=True)
class Fixed(Rule):
    """A tensor here that the other side does not have, because only one value of it gives the same model."""

    here: str
    value: Tensor

    def ours(self) -> list[str]:
        return [self.here]

    def theirs(self) -> list[str]:
        return []

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        return {self.here: self.value.clone()}

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        if not torch.equal(weights[self.here].float(), self.value.float()):
            raise ValueError(f"convert: {self.here} was trained; the other format has no place for it")
        return {}


@dataclass(frozen=True)
class Implied(Rule):
    """A tensor there that follows from the config, and that this side computes when it needs it."""

    there: str
    value: Callable[[], Tensor]

    def ours(self) -> list[str]:
        return []

    def theirs(self) -> list[str]:
        return [self.there]

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        found, value = weights[self.there].float(), self.value()
        if found.shape != value.shape or not torch.allclose(
            found, value, rtol=5e-3, atol=1e-6
        ):  # may be bf16
            raise ValueError(
                f"convert: {self.there} is not what its config.json makes it; this side has no place for it"
            )
        return {}

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        return {self.there: self.value()}


class Architecture(ABC):
    """One `model_type` of `transformers`; a module of this folder ends with `build = …`."""

    model_type: str  # of config.json
    causal_lm: str  # name of the class, for `architectures`

    shared: Mapping[str, Any] = {"norm": "rmsnorm", "residual": "pre_norm"}  # kinds `check` demands
    embedding_norm = False  # likewise

    def check(self, model: Mapping[str, Any]) -> None:
        """Raises ValueError for a model whose norm, residual or further predictions have no form there."""
        for part, kind in self.shared.items():
            demand(f"convert: {part}", model[part], kind=kind)
        demand("convert: mtp", model["mtp"], depth=0)
        demand("convert: model", model, embedding_norm=self.embedding_norm)

    @abstractmethod
    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `model` section of this project for their config.json. Raises ValueError for what has no form here."""

    @abstractmethod
    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        """Their config.json for a `model` section (inline form, every key). Raises ValueError likewise."""

    @abstractmethod
    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        """All pairs of tensors."""

    def received(self, config: Mapping[str, Any], weights: Weights) -> Weights:
        """Their tensors as the rules name them, where this depends on their config."""
        return weights

    def sent(
        self, config: dict[str, Any], weights: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Config and tensors to write, where the first depends on the values of the second."""
        return config, weights


def apply(rules: Iterable[Rule], weights: Weights, *, to: str) -> dict[str, Tensor]:
    """All tensors of one side from those of the other; `to` is "ours" or "theirs".

    Raises:
        ValueError: a tensor is missing, or one is left that no rule names; the first few are named.
    """
    rules = list(rules)
    needed = {name for rule in rules for name in (rule.theirs() if to == "ours" else rule.ours())}
    missing, left = sorted(needed - weights.keys()), sorted(weights.keys() - needed)
    if missing or left:
        what = [f"missing {', '.join(missing[:3])}"] if missing else []
        what += [f"unknown {', '.join(left[:3])}"] if left else []
        more = f" and {len(missing) + len(left) - 3} more" if len(missing) + len(left) > 3 else ""
        raise ValueError(f"convert: tensors do not match the config: {'; '.join(what)}{more}")
    out: dict[str, Tensor] = {}
    for rule in rules:
        made = rule.to_ours(weights) if to == "ours" else rule.to_theirs(weights)
        out |= {name: tensor.contiguous() for name, tensor in made.items()}
    return out


def expect_rows(name: str, tensor: Tensor, rows: int) -> None:
    """Raises ValueError for a tensor of another height than the config says."""
    if tensor.shape[0] != rows:
        raise ValueError(f"convert: {name} is {list(tensor.shape)}, expected {rows} rows by its config.json")


def demand(where: str, config: Mapping[str, Any], **allowed: Any) -> None:
    """Every named key must be absent or have the allowed value. Raises ValueError naming the first that has not."""
    for key, value in allowed.items():
        found = config.get(key, value)
        if found != value:
            raise ValueError(f"{where}: {key} is {found!r}; only {value!r} has a form in this project")
