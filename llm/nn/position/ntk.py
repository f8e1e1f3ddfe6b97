"""NTK: RoPE with a greater base, so that the slowest pair slows down by the factor and the fastest not at all.

Equations   (1)-(2) in docs/nn/position/ntk.md; comments below carry the same numbers.
Source      bloc97 2023, "NTK-aware scaled RoPE"; written up in Peng et al. 2023, YaRN, arXiv 2309.00071,
            section 3.1, definition 1
Cost        that of RoPE
Differs     from "dynamic NTK": the factor is fixed. A factor that follows the length of the text turns every
            cached key by the wrong angle as soon as the next token arrives, and lets the end of a row change
            what its beginning computes: decoding would not equal reading. See the page.
Shapes      R channels of a head that are rotated
"""

from dataclasses import dataclass

from torch import Tensor

from llm.nn.position._rotary import Rotary, StretchConfig, geometric
from llm.nn.position.base import Shape


@dataclass(frozen=True, kw_only=True)
class Config(StretchConfig):
    """Fields of every stretched rotation."""


class NTKPosition(Rotary):
    """theta_i of RoPE with base' = base factor^(R / (R - 2))."""

    least_width = 4  # one pair alone is both the fastest and the slowest

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.factor = config.factor

    def frequencies(self, width: int) -> Tensor:
        stretched = self.base * self.factor ** (width / (width - 2))  # (1)
        return geometric(stretched, width)  # (2)


build = NTKPosition
