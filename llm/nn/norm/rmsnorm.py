"""RMSNorm: divide by the root mean square, multiply by a gain.

Equations   (1) in docs/nn/norm/rmsnorm.md
Source      Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4
Cost        O(D) per token; D parameters
Differs     from the paper: nothing; statistics in float32, cast, then gain (the order of Llama)
Shapes      ... any leading dimensions, D channels
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.kernels.fused import RMSNormFunction, apply
from llm.nn.norm.base import Norm


@dataclass(frozen=True, kw_only=True)
class Config:
    """eps: added to the mean square."""

    eps: float = 1.0e-6


class RMSNorm(Norm):
    """y = gain * x / sqrt(mean(x^2) + eps)."""

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = apply(RMSNormFunction, x, self.gain, self.eps)  # (1)
        return y


build = RMSNorm
