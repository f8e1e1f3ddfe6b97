"""word_counts: what a table of word frequencies tells: Zipf's line, richness, coverage.

Equations   (1)-(3) in docs/data/word_counts.md
Source      Zipf 1949; Hurlbert 1971 (expected number of species in a sample)
Cost        O(V log V)
Differs     from Hurlbert: draws with replacement, no difference at these sizes
Shapes      V distinct words
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np


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
    x = np.log(np.arange(min_rank, min_rank + len(values)))
    y = np.log(np.array(values, dtype=np.float64))
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    rest, total = float(((dy - slope * dx) ** 2).sum()), float(dy @ dy)
    return ZipfLine(
        slope=slope, intercept=float(y.mean() - slope * x.mean()), r2=1.0 - rest / total if total else 1.0
    )


def type_token_ratio(counts: Counter[str], sample: int) -> float:
    """Distinct words expected among `sample` words drawn at random, for each word drawn.

    A type that makes up c of N words is missed by n draws with probability about (1 - n/N)^c (2).
    """
    n_words = sum(counts.values())
    sample = min(sample, n_words)
    if sample == 0:
        return 0.0
    occurrences = np.array(sorted(counts.values()), dtype=np.float64)
    return float((1.0 - (1.0 - sample / n_words) ** occurrences).sum()) / sample


def coverage(counts: Counter[str], size: int) -> float:
    """Share of all words that belong to the `size` most frequent ones (3)."""
    top = sum(count for _, count in counts.most_common(size))
    return top / max(1, sum(counts.values()))
