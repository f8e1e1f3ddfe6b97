"""uncertainty: a value with its standard error and the number of examples behind it.

Equations   (1)-(2) in docs/eval/metrics/uncertainty.md
Source      jackknife: Quenouille 1956, Tukey 1958; Efron & Stein 1981
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """value +- se over n examples; se is nan for a single example (nothing to compare it with)."""

    value: float
    se: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """For metrics JSON (nan becomes null there)."""
        return asdict(self)


def mean(values: Sequence[float]) -> Estimate:
    """Mean and its standard error s / sqrt(n) (1). Raises ValueError without values."""
    n = len(values)
    if not n:
        raise ValueError("eval: no examples to average; lower the filters or check the validation set")
    average = math.fsum(values) / n
    if n == 1:
        return Estimate(average, math.nan, 1)
    return Estimate(average, math.sqrt(math.fsum((v - average) ** 2 for v in values) / (n - 1) / n), n)


def jackknife(items: Sequence[T], statistic: Callable[[Sequence[T]], float]) -> Estimate:
    """A statistic of a whole corpus; its error from leaving out one item at a time (2).

    For what is no mean of per-example numbers: corpus BLEU, distinct-n. Calls `statistic` n + 1 times.
    """
    n = len(items)
    if not n:
        raise ValueError("eval: no examples to score; lower the filters or check the validation set")
    if n == 1:
        return Estimate(statistic(items), math.nan, 1)
    left_out = [statistic([*items[:i], *items[i + 1 :]]) for i in range(n)]
    average = math.fsum(left_out) / n
    return Estimate(
        statistic(items), math.sqrt((n - 1) / n * math.fsum((v - average) ** 2 for v in left_out)), n
    )
