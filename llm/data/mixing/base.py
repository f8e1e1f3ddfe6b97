"""base: the interface of a mixture, how it is kept below its caps, and which documents are then read.

Equations   (1)-(3) in docs/data/mixing/base.md; comments below carry the same numbers.
Shapes      D documents, N documents as they are read, some of them more than once
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm.runtime import derive_seed


class Mixture(ABC):
    """Decides how many tokens of each kind of document training shall read."""

    @abstractmethod
    def wanted(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Tokens wanted of each kind, from the tokens there are."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """total_frac: tokens to read, as a share of the corpus. max_epochs: no kind is read more often."""

    total_frac: float = 1.0
    max_epochs: float = 4.0

    def __post_init__(self) -> None:
        if not 0.0 < self.total_frac < math.inf:
            raise ValueError(f"total_frac ({self.total_frac}) must be positive")
        if not self.max_epochs > 0.0:
            raise ValueError(f"max_epochs ({self.max_epochs}) must be positive")

    def share(self, weights: Mapping[str, float], tokens: Mapping[str, int]) -> dict[str, float]:
        """Tokens in proportion to `weights`; what a kind at its cap leaves over goes to the others (1)."""
        left, open_kinds = self.total_frac * sum(tokens.values()), {k for k in weights if weights[k] > 0}
        shares = dict.fromkeys(tokens, 0.0)
        while open_kinds:
            per_weight = left / sum(weights[kind] for kind in sorted(open_kinds))
            full = {k for k in open_kinds if weights[k] * per_weight > self.max_epochs * tokens[k]}
            for kind in full or open_kinds:
                shares[kind] = self.max_epochs * tokens[kind] if full else weights[kind] * per_weight
            left -= sum(shares[kind] for kind in sorted(full))
            open_kinds = open_kinds - full if full else set()
        return shares


def read_order(
    kinds_D: Sequence[str], lengths_D: np.ndarray, wanted: Mapping[str, float], seed: int
) -> np.ndarray:
    """Documents in the order they are read, int64 [N]: whole passes over the corpus, then a part of one.

    A document is read `floor` or `ceil` of its kind's epochs times (2), so no kind exceeds what is wanted, and
    each misses it by less than its longest document.
    """
    times_D = np.zeros(len(lengths_D), dtype=np.int64)
    kinds = np.array(kinds_D)
    for kind, tokens in sorted(wanted.items()):
        members = np.flatnonzero(kinds == kind)
        total = int(lengths_D[members].sum())
        whole, rest = divmod(round(tokens), total) if total else (0, 0)
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "mix", kind)))
        times_D[members] = whole
        times_D[_part(generator.permutation(members), lengths_D, rest)] += 1
    rounds = [np.flatnonzero(times_D > nth) for nth in range(int(times_D.max(initial=0)))]
    return np.concatenate(rounds) if rounds else np.zeros(0, dtype=np.int64)


def _part(docs: np.ndarray, lengths_D: np.ndarray, tokens: int) -> list[int]:
    """Documents, taken in the given order while they fit, of at most `tokens` tokens together (3)."""
    taken = []
    for doc in docs.tolist():
        if 0 < lengths_D[doc] <= tokens:
            taken.append(doc)
            tokens -= int(lengths_D[doc])
    return taken


def realised(
    kinds_D: Sequence[str], lengths_D: np.ndarray, order_N: np.ndarray, wanted: Mapping[str, float]
) -> dict[str, Any]:
    """What became of a mixture, for the metrics: per kind, tokens wanted and read, epochs, share of all."""
    kinds = np.array(kinds_D)
    read = {kind: int(lengths_D[order_N[kinds[order_N] == kind]].sum()) for kind in wanted}
    total = max(1, sum(read.values()))
    report = {}
    for kind, tokens in read.items():
        there = int(lengths_D[kinds == kind].sum())
        report[kind] = {
            "n_tokens": there,
            "wanted_tokens": round(wanted[kind]),
            "read_tokens": tokens,
            "epochs": tokens / there if there else 0.0,
            "read_frac": tokens / total,
        }
    return report
