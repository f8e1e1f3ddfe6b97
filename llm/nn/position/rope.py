"""RoPE: rotate each pair of channels by an angle proportional to the position.

Equations   (1)-(3) in docs/nn/position/rope.md; the rotation itself is in _rotary.py
Source      Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34; half-split pairing as in Llama
Cost        O(T H) per head; no parameters, no state
Differs     from the paper: pairs are (i, i + H/2), not (2i, 2i+1): a fixed permutation of w_q and w_k
Shapes      H width of the rotated vector
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llm.nn.position._rotary import Rotary
from llm.nn.position.base import Shape


@dataclass(frozen=True, kw_only=True)
class Config:
    """base: the slowest pair turns once in 2 pi base tokens."""

    base: float = 10000.0

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"base ({self.base}) must be greater than 1")


class RotaryPosition(Rotary):
    """theta_i = base^(-2i/H)."""

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(shape)
        self.base = config.base

    def frequencies(self, width: int) -> Tensor:
        return self.base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # (1)


build = RotaryPosition
