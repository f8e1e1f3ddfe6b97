"""Temperature: small kinds are raised by flattening the sizes with an exponent.

Equations   (1) in docs/data/mixing/temperature.md; comments below carry the same numbers.
Source      Devlin 2018 (multilingual BERT, exponent 0.7); Lample & Conneau 2019 (XLM), arXiv 1901.07291, section 3.1
Cost        O(kinds)
Differs     from the sources: sizes are tokens, and `max_epochs` caps the repetition
Shapes      none
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llm.data.mixing.base import Budget, Mixture


@dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """tau: 1 is the proportions of the corpus, `.inf` the same number of tokens of every kind."""

    tau: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau >= 1.0:
            raise ValueError(f"tau ({self.tau}) must be at least 1")


class Temperature(Mixture):
    """The exponent 1 / tau is the alpha of XLM."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def wanted(self, tokens: Mapping[str, int]) -> dict[str, float]:
        weights = {kind: n ** (1.0 / self.config.tau) for kind, n in tokens.items() if n}  # (1)
        return self.config.share(weights, tokens)


build = Temperature
