"""base: the interface of a learning-rate schedule, and the warm-up they share.

A variant is built as `build(config, steps)`; `factor(step)` for step = 0 .. steps - 1 multiplies the rate of
every optimizer, so that groups with different rates keep their ratio. No state: resuming needs only the step.
"""

from abc import abstractmethod


class Schedule:
    """Factor of the learning rate, by step."""

    def __init__(self, steps: int, warmup_frac: float) -> None:
        self.steps = steps
        self.warmup = round(warmup_frac * steps)

    @abstractmethod
    def after_warmup(self, step: int) -> float:
        """Factor at a step >= `self.warmup`."""

    def factor(self, step: int) -> float:
        """Linear from 1 / warmup at step 0 to 1, so that no step is wasted on a rate of 0; then the variant."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.after_warmup(step)


def check_fracs(**fractions: float) -> None:
    """Raises ValueError for a fraction outside [0, 1]."""
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} ({value}) must be in [0, 1]")


def floored(value: float, floor: float) -> float:
    """Map [0, 1] onto [floor, 1]."""
    return floor + (1 - floor) * value
