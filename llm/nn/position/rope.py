"""RoPE: rotate each pair of channels by an angle proportional to the position.

Equations   (1)-(3) in docs/nn/position/rope.md; comments below carry the same numbers.
Source      Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34; half-split pairing as in Llama
Cost        O(T H) per head; no parameters, no state
Differs     from the paper: pairs are (i, i + H/2), not (2i, 2i+1): a fixed permutation of w_q and w_k
Shapes      B batch, N heads, T tokens, H d_head
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Config:
    """base: the slowest pair turns once in 2 pi base tokens."""

    base: float = 10000.0

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"base ({self.base}) must be greater than 1")


class RotaryPosition(Position):
    """Rotary position embedding. Angles are always float32: bf16 cannot count beyond 256."""

    relative = True

    def __init__(self, config: Config, *, d_model: int, d_head: int, max_len: int) -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"model.position: rope needs an even d_head, found {d_head}")
        theta = config.base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)  # (1)
        angles = torch.arange(max_len, dtype=torch.float64)[:, None] * theta  # [max_len, H/2]
        # Not in the checkpoint, and out of reach of module casts: `.to(bfloat16)` would round the angles.
        self._angles = angles
        self._tables: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def tables(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, [max_len, H/2] each, computed in float64 and rounded once."""
        key = (dtype, device)
        if key not in self._tables:
            self._tables[key] = (self._angles.cos().to(device, dtype), self._angles.sin().to(device, dtype))
        return self._tables[key]

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows of cos and sin: [T, H/2], or [B, 1, T, H/2] where each row has its own positions."""
        cos, sin = (table[positions] for table in self.tables(dtype, positions.device))
        return (cos[:, None], sin[:, None]) if positions.dim() == 2 else (cos, sin)

    def rotate(self, x_BNTH: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        y_BNTH: Tensor = apply(Rotate, x_BNTH, *angles)
        return y_BNTH


class Rotate(torch.autograd.Function):
    """Turn each pair (a, b) by its angle (2); the gradient turns back by the same angle (3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(x, cos, sin, sign=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(grads[0], cos, sin, sign=-1), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """(a, b) -> (a cos - sign b sin, b cos + sign a sin), written into one contiguous tensor."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (a, b), (ya, yb) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    torch.mul(a, cos, out=ya).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=yb).addcmul_(a, sin, value=sign)
    return y


build = RotaryPosition
