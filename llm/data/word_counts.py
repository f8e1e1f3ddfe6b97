"""word_counts: what a table of word frequencies tells: Zipf's line, Heaps' law, richness, coverage.

Equations   (1)-(4) in docs/data/word_counts.md
Source      Zipf 1949; Heaps 1978; Hurlbert 1971 (expected number of species in a sample)
Cost        O(V log V)
Differs     from Hurlbert: draws with replacement, no difference at these sizes
Shapes      V distinct words, P points of a curve
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first, ties by spelling, so that the order never depends on the order of reading."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, kw_only=True)
class ZipfLine:
    """log count = slope · log rank + intercept. r2: share of the variance that the line explains."""

    slope: float
    intercept: float
    r2: float

    def count(self, rank: int) -> float:
        """Occurrences the line gives a rank."""
        return float(np.exp(self.slope * np.log(rank) + self.intercept))


def zipf_fit(counts: Counter[str], min_rank: int, max_rank: int) -> ZipfLine | None:
    """Least squares of log count over log rank (1); None where fewer than three ranks are left."""
    values = [count for _, count in ranked(counts)][min_rank - 1 : max_rank]
    if len(values) < 3:
        return None
    slope, intercept, r2 = _least_squares(
        np.log(np.arange(min_rank, min_rank + len(values))), np.log(np.array(values, dtype=np.float64))
    )
    return ZipfLine(slope=slope, intercept=intercept, r2=r2)


@dataclass(frozen=True, kw_only=True)
class HeapsLaw:
    """types = k · words^beta. r2: share of the variance of log types that the law explains."""

    k: float
    beta: float
    r2: float

    def types(self, words: float) -> float:
        """Distinct words the law gives a text of so many words."""
        return float(self.k * words**self.beta)


def growth(first: Sequence[int], n_words: int, points: int = 60) -> list[tuple[int, int]]:
    """(words read, distinct words met) at evenly spaced log counts of words, up to the whole text.

    Args:
        first: the position, from 0, at which each distinct word stands first, ascending.
    """
    read_P = np.unique(np.round(np.geomspace(1, max(1, n_words), points)).astype(np.int64))
    met_P = np.searchsorted(np.asarray(first, dtype=np.int64), read_P, side="left")
    return list(zip(read_P.tolist(), met_P.tolist(), strict=True)) if n_words else []


def heaps_fit(curve: Sequence[tuple[int, int]], min_words: int) -> HeapsLaw | None:
    """Least squares of log types over log words (4) from `min_words` on; None with fewer than three points."""
    used = [(words, types) for words, types in curve if words >= min_words]
    if len(used) < 3:
        return None
    x_P, y_P = np.log(np.array(used, dtype=np.float64)).T
    slope, intercept, r2 = _least_squares(x_P, y_P)
    return HeapsLaw(k=float(np.exp(intercept)), beta=slope, r2=r2)


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Slope, intercept and explained share of the variance of the line y = slope · x + intercept."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    rest, total = float(((dy - slope * dx) ** 2).sum()), float(dy @ dy)
    return slope, float(y.mean() - slope * x.mean()), 1.0 - rest / total if total else 1.0


def type_token_ratio(counts: Iterable[int], n_words: int, draws: int) -> float:
    """Distinct words expected among `draws` words drawn at random from `n_words`, for each word drawn.

    A type that makes up c of N words is missed by n draws with probability about (1 - n/N)^c (2).
    """
    draws = min(draws, n_words)
    if draws == 0:
        return 0.0
    occurrences = np.array(sorted(counts), dtype=np.float64)
    return float((1.0 - (1.0 - draws / n_words) ** occurrences).sum()) / draws


def coverage(counts: Counter[str], n_words: int, size: int) -> float:
    """Share of all words that belong to the `size` most frequent ones (3)."""
    top = sum(count for _, count in counts.most_common(size))
    return top / max(1, n_words)
