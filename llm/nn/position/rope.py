"""RoPE: rotate each pair of channels by an angle proportional to the position.

Equations   (1)-(3) in docs/nn/position/rope.md; the rotation itself is in _rotary.py
Source      Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34; half-split pairing as in Llama
Cost        O(T H) per head; no parameters, no state
Differs     from the paper: pairs are (i, i + R/2), not (2i, 2i+1), unless `layout: interleaved` is chosen
Shapes      R channels of a head that are rotated
"""

from dataclasses import dataclass

from torch import Tensor

from llm.nn.position._rotary import Rotary, RotaryConfig, geometric


@dataclass(frozen=True, kw_only=True)
class Config(RotaryConfig):
    """Fields of every rotation."""


class RotaryPosition(Rotary):
    """theta_i = base^(-2i/R)."""

    def frequencies(self, width: int) -> Tensor:
        return geometric(self.base, width)  # (1)


build = RotaryPosition
