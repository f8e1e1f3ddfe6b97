"""base: the interface of a method that finds documents which say the same.

A method works in two steps. `signatures` maps every text to a row of numbers that depends on that text
alone, so rows can be made in any order, process or shard and stacked. `pairs` then compares rows. Which
document of a cluster is kept is no business of the method: the caller sorts its documents best first, and
the first of each cluster stays (llm/data/deduplicate.py states the order).

Shapes      N documents, M pairs, W numbers in a signature
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """rows_M2: pairs of row numbers that are duplicates. facts: what the method reports about the search."""

    rows_M2: NDArray[np.int64]
    facts: dict[str, int | float] = field(default_factory=dict)


class Dedup:
    """One way to say which documents are the same. `reason` is the name a dropped document carries."""

    reason = "duplicate"

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        """[N] texts -> [N, W]; row i depends on texts[i] alone."""
        raise TypeError(f"{type(self).__name__} defines no signatures")

    def pairs(self, signatures_NW: NDArray[Any], texts: Sequence[str]) -> Pairs:
        """Pairs of duplicate rows. `texts` serves a method that verifies what its signatures suggest."""
        raise TypeError(f"{type(self).__name__} defines no pairs")

    def duplicates(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """[N] texts, best first -> [N] the row that stands for each: its own, or an earlier one."""
        return clusters(len(texts), self.pairs(self.signatures(texts), texts).rows_M2)


def clusters(n_rows: int, pairs_M2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Union–find with path halving: the smallest row of the cluster of each row, [n_rows].

    Uniting towards the smaller row makes the result independent of the order of the pairs.
    """
    parent = list(range(n_rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for left, right in pairs_M2.tolist():
        left, right = root(left), root(right)
        parent[max(left, right)] = min(left, right)
    return np.array([root(row) for row in range(n_rows)], dtype=np.int64)


def buckets(keys_N: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Rows with equal keys, as one ascending array for each key that occurs at least twice."""
    order = np.argsort(keys_N, kind="stable")
    borders = np.flatnonzero(keys_N[order][1:] != keys_N[order][:-1]) + 1
    return [group for group in np.split(order, borders) if len(group) > 1]


def pair_array(pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """A list of pairs as [M, 2], also when it is empty."""
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
