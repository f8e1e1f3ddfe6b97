"""Weights: the shares are given, kind by kind.

Equations   those of docs/data/mixing/base.md
Source      Brown et al. 2020 (GPT-3), arXiv 2005.14165, table 2.2; a cap on
            epochs: Muennighoff et al. 2023, arXiv 2305.16264
Cost        O(kinds)
Differs     from GPT-3: what a kind at its cap cannot give is shared among the others
Shapes      none
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llm.data.mixing.base import Budget, Mixture


@dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """weights: one for each kind of document in the corpus; their sum does not matter, 0 leaves a kind out."""

    weights: dict[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        values = self.weights.values()
        if not all(0.0 <= value < math.inf for value in values) or not any(values):
            raise ValueError(f"weights ({self.weights}) must not be negative, and one must be positive")


class Weights(Mixture):
    """Every kind has to be named: a forgotten one would silently be left out."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def wanted(self, tokens: Mapping[str, int]) -> dict[str, float]:
        weights = self.config.weights
        if set(weights) != set(tokens):
            raise ValueError(
                f"weights: names {', '.join(sorted(weights))}, the corpus has {', '.join(sorted(tokens))}; "
                "name each kind once, 0 leaves it out"
            )
        return self.config.share(weights, tokens)


build = Weights
