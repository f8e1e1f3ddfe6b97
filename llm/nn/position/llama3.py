"""Llama-3 rule: keep the fast pairs, interpolate the slow ones, smoothly in the number of turns between.

Equations   (1)-(3) in docs/nn/position/llama3.md; comments below carry the same numbers.
Source      Llama team 2024, The Llama 3 Herd of Models, arXiv 2407.21783; the rule is in the released code of
            Llama 3.1 (`apply_scaling`)
Cost        that of RoPE
Differs     from the release: nothing; there the factor is 8 and original_len 8192
Shapes      R channels of a head that are rotated
"""

import math
from dataclasses import dataclass

from torch import Tensor

from llm.nn.position._rotary import Rotary, StretchConfig, geometric
from llm.nn.position.base import Shape


@dataclass(frozen=True, kw_only=True)
class Config(StretchConfig):
    """original_len: tokens of a row in the training before. Pairs that turn in it fewer than low_turns times
    are interpolated, those above high_turns times keep their speed."""

    original_len: int = 256
    low_turns: float = 1.0
    high_turns: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.original_len < 1:
            raise ValueError(f"original_len ({self.original_len}) must be positive")
        if not 0 < self.low_turns < self.high_turns:
            raise ValueError(
                f"low_turns ({self.low_turns}) must be above 0 and below high_turns ({self.high_turns})"
            )


class Llama3Position(Rotary):
    """theta_i (1 - smooth_i) / factor + theta_i smooth_i."""

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.config = config

    def frequencies(self, width: int) -> Tensor:
        config, theta = self.config, geometric(self.base, width)
        turns = config.original_len * theta / (2 * math.pi)  # (1)
        smooth = ((turns - config.low_turns) / (config.high_turns - config.low_turns)).clamp(0, 1)  # (2)
        return theta * smooth + theta / config.factor * (1 - smooth)  # (3)


build = Llama3Position
