"""RMSNorm with a gain of 1 + w: the stored weight is the distance from 1.

Equations   (1) in docs/nn/norm/rmsnorm_unit_offset.md
Source      Gemma Team 2024, arXiv 2403.08295, released code; also Qwen3-Next. RMSNorm: arXiv 1910.07467, eq. 4
Cost        O(D) per token; D parameters
Differs     from the code: nothing; all of it in float32, one rounding at the end (the order of Gemma)
Shapes      ... any leading dimensions, D channels
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm.nn.kernels.fused import apply, high
from llm.nn.norm.base import Norm


@dataclass(frozen=True, kw_only=True)
class Config:
    """eps: added to the mean square."""

    eps: float = 1.0e-6


class UnitOffsetFunction(torch.autograd.Function):
    """y = (1 + w) x r with r = 1 / sqrt(mean(x^2) + eps) (1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, eps: float) -> Tensor:
        wide = x.to(high(x.dtype))
        r = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, offset, r)
        return (wide * r).mul_(1 + offset.to(r.dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, offset, r = ctx.saved_tensors
        normed, d_y = x.to(r.dtype).mul(r), grads[0].to(r.dtype)
        d_offset = (d_y * normed).flatten(0, -2).sum(0).to(offset.dtype)
        d_n = d_y * (1 + offset.to(r.dtype))
        along = (d_n * normed).mean(-1, keepdim=True)
        d_x = torch.addcmul(d_n, normed, along, value=-1).mul_(r).to(x.dtype)
        return d_x, d_offset, None


class RMSNormUnitOffset(Norm):
    """y = (1 + w) * x / sqrt(mean(x^2) + eps)."""

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.eps = config.eps
        self.offset = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = apply(UnitOffsetFunction, x, self.offset, self.eps)
        return y


build = RMSNormUnitOffset
