"""cosine: after warm-up, half a cosine wave from 1 down to a floor.

Equations   (1)-(2) in docs/optim/schedules/cosine.md; comments below carry the same numbers.
Source      Loshchilov & Hutter 2016, SGDR, arXiv 1608.03983, eq. 5 without restarts
Cost        nothing
Differs     from the paper: linear warm-up before, one period only
"""

import math
from dataclasses import dataclass

from llm.optim.schedules.base import Schedule, check_fracs, floored


@dataclass(frozen=True, kw_only=True)
class Config:
    """warmup_frac: share of all steps spent warming up; min_frac: the factor the curve ends at."""

    warmup_frac: float
    min_frac: float = 0.1

    def __post_init__(self) -> None:
        check_fracs(warmup_frac=self.warmup_frac, min_frac=self.min_frac)


class Cosine(Schedule):
    """Warm-up, then cosine decay to `min_frac`."""

    def __init__(self, config: Config, steps: int) -> None:
        super().__init__(steps, config.warmup_frac)
        self.config = config

    def after_warmup(self, step: int) -> float:
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)  # (1)
        return floored(0.5 * (1 + math.cos(math.pi * progress)), self.config.min_frac)  # (2)


build = Cosine
