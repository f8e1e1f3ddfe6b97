"""WSD: warm up, stay, decay: most of training at the full rate, the last part falling to a floor.

Equations   (1)-(4) in docs/optim/schedules/wsd.md; comments below carry the same numbers.
Source      Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 4; shapes of the decay: Haegele et al. 2024,
            arXiv 2405.18392, section 4
Cost        nothing
Differs     from MiniCPM: its exponential decay is replaced by the three shapes of the second paper
"""

import math
from dataclasses import dataclass
from typing import Literal

from llm.optim.schedules.base import Schedule, check_fracs, floored


@dataclass(frozen=True, kw_only=True)
class Config:
    """warmup_frac, decay_frac: shares of all steps; decay: shape of the fall; min_frac: where it ends."""

    warmup_frac: float
    decay_frac: float = 0.2
    decay: Literal["linear", "1-sqrt", "cosine"] = "1-sqrt"
    min_frac: float = 0.0

    def __post_init__(self) -> None:
        check_fracs(warmup_frac=self.warmup_frac, decay_frac=self.decay_frac, min_frac=self.min_frac)
        if self.warmup_frac + self.decay_frac > 1:
            raise ValueError(
                f"warmup_frac ({self.warmup_frac}) + decay_frac ({self.decay_frac}) must be at most 1"
            )


class WSD(Schedule):
    """Warm-up, plateau at 1, decay to `min_frac`."""

    def __init__(self, config: Config, steps: int) -> None:
        super().__init__(steps, config.warmup_frac)
        self.config = config
        self.decay_steps = min(round(config.decay_frac * steps), steps - self.warmup)

    def after_warmup(self, step: int) -> float:
        into_decay = step - (self.steps - self.decay_steps)
        if into_decay < 0:
            return 1.0
        progress = into_decay / max(1, self.decay_steps)  # (1)
        return floored(self._shape(progress), self.config.min_frac)

    def _shape(self, progress: float) -> float:
        if self.config.decay == "linear":
            return 1 - progress  # (2)
        if self.config.decay == "1-sqrt":
            return 1 - math.sqrt(progress)  # (3)
        return 0.5 * (1 + math.cos(math.pi * progress))  # (4)


build = WSD
