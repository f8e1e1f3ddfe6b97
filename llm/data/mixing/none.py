"""None: every document once.

Equations   none
Source      none
Cost        nothing
Differs     nothing
Shapes      none
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llm.data.mixing.base import Mixture


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class NoMixture(Mixture):
    """Wants what there is."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def wanted(self, tokens: Mapping[str, int]) -> dict[str, float]:
        return {kind: float(n) for kind, n in tokens.items()}


build = NoMixture
