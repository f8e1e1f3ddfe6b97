"""YaRN: interpolate the slow pairs, leave the fast ones, and sharpen the attention a little.

Equations   (1)-(5) in docs/nn/position/yarn.md; comments below carry the same numbers.
Source      Peng et al. 2023, arXiv 2309.00071, sections 3.2-3.3 and the released implementation
Cost        that of RoPE
Differs     from the paper's text: the ramp is linear in the index of the pair between the rounded border
            indices, as in the released code and in every library, not linear in the number of turns
Shapes      R channels of a head that are rotated
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.nn.position._rotary import Rotary, StretchConfig, geometric
from llm.nn.position.base import Shape


@dataclass(frozen=True, kw_only=True)
class Config(StretchConfig):
    """original_len: tokens of a row in the training before. Pairs that turn more than beta_fast times in it
    keep their speed, those below beta_slow times are interpolated. temperature: factor on cos and sin (scores
    grow by its square); null: 0.1 ln(factor) + 1."""

    original_len: int = 256
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow ({self.beta_slow}) must be above 0 and below beta_fast ({self.beta_fast})"
            )
        if self.original_len <= 2 * math.pi * self.beta_slow:
            raise ValueError(f"original_len ({self.original_len}) must be above 2 pi beta_slow")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature ({self.temperature}) must be positive")


class YarnPosition(Rotary):
    """theta_i (1 - ramp_i) + theta_i ramp_i / factor, both cos and sin times the temperature."""

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.config = config

    def frequencies(self, width: int) -> Tensor:
        config, theta = self.config, geometric(self.base, width)
        high = min(math.ceil(self.pair_that_turns(config.beta_slow, width)), width - 1)  # (2)
        low = min(max(math.floor(self.pair_that_turns(config.beta_fast, width)), 0), high)
        index = torch.arange(width // 2, dtype=torch.float64)
        ramp = ((index - low) / max(high - low, 1e-3)).clamp(0, 1)  # (3)
        return theta * (1 - ramp) + theta / config.factor * ramp  # (4)

    def pair_that_turns(self, times: float, width: int) -> float:
        """The index (not rounded) of the pair that turns `times` times in original_len tokens (1)."""
        return width * math.log(self.config.original_len / (2 * math.pi * times)) / (2 * math.log(self.base))

    def gain(self) -> float:
        chosen = self.config.temperature
        return 0.1 * math.log(self.config.factor) + 1 if chosen is None else chosen  # (5)


build = YarnPosition
