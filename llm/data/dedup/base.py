"""base: the interface of a method that finds documents which say the same.

A method works in two steps. `signatures` maps every text to a row of numbers that depends on that text
alone, so rows can be made in any order, process or shard and stacked. `pairs` then compares rows. Which
document of a cluster is kept is no business of the method: the caller sorts its documents best first, and
the first of each cluster stays (llm/data/deduplicate.py states the order).

A method that must know the corpus before it makes a row (`needs_fit`) is shown all texts once: `look` at each
batch, in any process, then `fit` on what came back.

Shapes      N documents, M pairs, W numbers in a signature
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.data.shingles import mix
from llm.data.spool import chunks


class Texts(Protocol):
    """Texts by number: a list, or something that reads one when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """rows_M2: pairs of row numbers that are duplicates. facts: what the method reports about the search."""

    rows_M2: NDArray[np.int64]
    facts: dict[str, int | float] = field(default_factory=dict)


class Dedup:
    """One way to say which documents are the same. `reason` is the name a dropped document carries."""

    reason = "duplicate"
    needs_fit = False

    def look(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """What `fit` must know of a batch of texts; the looks of batches add up to that of all their texts."""
        raise TypeError(f"{type(self).__name__} needs no look at {len(texts)} texts")

    def fit(self, looks: Iterable[NDArray[np.int64]]) -> None:
        """Take what `look` saw in each batch, before the first signature; only called when `needs_fit`."""
        raise TypeError(f"{type(self).__name__} needs no fit on {type(looks).__name__}")

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        """[N] texts -> [N, W]; row i depends on texts[i] alone."""
        raise TypeError(f"{type(self).__name__} defines no signatures")

    def pairs(self, signatures_NW: NDArray[Any], texts: Texts) -> Pairs:
        """Pairs of duplicate rows. `texts` serves a method that verifies what its signatures suggest."""
        raise TypeError(f"{type(self).__name__} defines no pairs")

    def curve(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """The chance that a pair of each similarity is found; of no length where nothing is left to chance."""
        return similarity[:0]

    def duplicates(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """[N] texts, best first -> [N] the row that stands for each: its own, or an earlier one."""
        if self.needs_fit:
            self.fit([self.look(texts)])
        return clusters(len(texts), self.pairs(self.signatures(texts), texts).rows_M2)


def fold(text: str) -> str:
    """NFC, case folded, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def clusters(n_rows: int, pairs_M2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Union–find with path halving: the smallest row of the cluster of each row, [n_rows].

    Uniting towards the smaller row makes the result independent of the order of the pairs.
    """
    parent = np.arange(n_rows)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for left, right in pairs_M2.tolist():
        left, right = root(left), root(right)
        parent[max(left, right)] = min(left, right)
    return ends(parent)


def ends(next_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row arrives that follows `next_N` until it stays."""
    while not np.array_equal(farther := next_N[next_N], next_N):
        next_N = farther
    return next_N


def bucket_keys(rows_NW: NDArray[Any]) -> NDArray[np.uint64]:
    """One 64-bit number for each row of unsigned numbers; different rows get the same one by chance, 2^-64."""
    parts = [np.zeros(0, dtype=np.uint64)]
    for chunk in chunks(rows_NW):
        keys = np.zeros(len(chunk), dtype=np.uint64)
        for column in chunk.T:
            keys = mix(keys + column + np.uint64(0x9E3779B97F4A7C15))
        parts.append(keys)
    return np.concatenate(parts)


def buckets(keys_N: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Rows with equal keys, as one ascending array for each key that occurs at least twice."""
    order = np.argsort(keys_N, kind="stable")
    borders = np.flatnonzero(keys_N[order][1:] != keys_N[order][:-1]) + 1
    starts, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
    shared = np.flatnonzero(ends - starts > 1)
    return [order[start:end] for start, end in zip(starts[shared], ends[shared], strict=True)]


def pair_array(pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """A list of pairs as [M, 2], also when it is empty."""
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
