"""Capped: proportional to the sizes, but no kind counts for more than a fixed number of tokens.

Equations   (1) in docs/data/mixing/capped.md; comments below carry the same numbers.
Source      Raffel et al. 2019 (T5), arXiv 1910.10683, section 3.5.2, "examples-proportional mixing"
Cost        O(kinds)
Differs     from T5: sizes are tokens, not examples, and `max_epochs` caps the repetition
Shapes      none
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llm.data.mixing.base import Budget, Mixture


@dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """cap_tokens: K, the largest size that counts."""

    cap_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cap_tokens < 1:
            raise ValueError(f"cap_tokens ({self.cap_tokens}) must be positive")


class Capped(Mixture):
    """Kinds below the cap keep their proportions to each other."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def wanted(self, tokens: Mapping[str, int]) -> dict[str, float]:
        weights = {kind: float(min(n, self.config.cap_tokens)) for kind, n in tokens.items()}  # (1)
        return self.config.share(weights, tokens)


build = Capped
