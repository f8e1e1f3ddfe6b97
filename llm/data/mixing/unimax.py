"""UniMax: as uniform as a cap on repetition allows.

Equations   (1)-(2) in docs/data/mixing/unimax.md; comments below carry the same numbers.
Source      Chung et al. 2023 (UniMax), arXiv 2304.09151, algorithm 1
Cost        O(kinds log kinds)
Differs     from the source: sizes are tokens, not characters
Shapes      none
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llm.data.mixing.base import Budget, Mixture


@dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """max_epochs is the N of the source."""


class UniMax(Mixture):
    """The smallest kind chooses first: an equal share of what is left, or all it may be repeated."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def wanted(self, tokens: Mapping[str, int]) -> dict[str, float]:
        left = self.config.total_frac * sum(tokens.values())
        shares = {}
        by_size = sorted(tokens.items(), key=lambda item: (item[1], item[0]))
        for nth, (kind, n) in enumerate(by_size):
            shares[kind] = min(left / (len(by_size) - nth), self.config.max_epochs * n)  # (1)
            left -= shares[kind]  # (2)
        return shares


build = UniMax
