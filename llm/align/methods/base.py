"""base: the interface of an alignment method, and numbers per held-out example to judge it by.

A method owns its data. Each step it hands out micro-batches (pairs, or rollouts of the policy as it is now)
and turns each into a `Loss`; the one training loop does the rest. Before and after training it gives
numbers for the same held-out examples in the same order, so that the gain has a paired standard error.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from llm.nn.model import Decoder
from llm.nn.objective import Loss
from llm.sft.rows import standard_error
from llm.tokenizer.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class AlignData:
    """Where a method finds what it needs. preference, prompts: folders of encoded sets with both splits.
    work: a folder that outlives an interruption of the run, and only that."""

    preference: Path
    prompts: Path
    tokenizer: Tokenizer
    device: torch.device
    seed: int
    work: Path


@dataclass(frozen=True)
class Examples:
    """values: name -> one number for each held-out example; kinds: what sort of example each one is."""

    kinds: Sequence[str]
    values: dict[str, np.ndarray]


class Method(ABC):
    """A way to align a policy; the training loop changes the policy's weights in place.

    unit: what the count of a batch counts, for the speed the loop reports. watched: examples in `watch`.
    """

    unit: ClassVar[str]
    watched: ClassVar[int] = 64

    @abstractmethod
    def micro_batches(self, step: int) -> list[Any]:
        """What a step trains on; each batch knows its `count`, the divisor of its loss, beforehand."""

    @abstractmethod
    def objective(self, model: Decoder, batch: Any) -> Loss:
        """The loss of one micro-batch; its parts are sums over the batch's examples."""

    @abstractmethod
    def examples(self, limit: int | None = None) -> Examples:
        """Numbers of the policy as it is now on all held-out examples, or on `limit` of them."""

    def before(self) -> Examples:
        """`examples()` of the policy before its first step."""
        return self.examples()

    def watch(self) -> dict[str, float]:
        """Means over some held-out examples, for the learning curve."""
        values = self.examples(self.watched).values
        return {f"val_{name}": float(value.mean()) for name, value in values.items()}


def compare(before: Examples, after: Examples) -> dict[str, Any]:
    """Means before and after, gain and its standard error from paired differences, over all and by kind."""
    kinds = np.array(before.kinds)
    report: dict[str, Any] = {"all": _compare(before, after, np.full(len(kinds), True))}
    for kind in sorted(set(before.kinds)):
        report[kind] = _compare(before, after, kinds == kind)
    return report


def _compare(before: Examples, after: Examples, chosen: np.ndarray) -> dict[str, Any]:
    report: dict[str, Any] = {"n": int(chosen.sum())}
    for name in before.values:
        old, new = before.values[name][chosen], after.values[name][chosen]
        report[name] = {
            "before": float(old.mean()),
            "after": float(new.mean()),
            "gain": float((new - old).mean()),
            "gain_se": standard_error(new - old),
        }
    return report
