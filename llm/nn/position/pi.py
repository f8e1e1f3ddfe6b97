"""PI: position interpolation, RoPE whose clock runs slower by the factor the texts grow longer.

Equations   (1) in docs/nn/position/pi.md; comments below carry the same numbers.
Source      Chen et al. 2023, arXiv 2306.15595, eq. 4
Cost        that of RoPE
Differs     from the paper: the frequencies are divided, not the positions: the same angles
Shapes      R channels of a head that are rotated
"""

from dataclasses import dataclass

from torch import Tensor

from llm.nn.position._rotary import Rotary, StretchConfig, geometric
from llm.nn.position.base import Shape


@dataclass(frozen=True, kw_only=True)
class Config(StretchConfig):
    """Fields of every stretched rotation."""


class InterpolatedPosition(Rotary):
    """theta_i = base^(-2i/R) / factor."""

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.factor = config.factor

    def frequencies(self, width: int) -> Tensor:
        return geometric(self.base, width) / self.factor  # (1)


build = InterpolatedPosition
