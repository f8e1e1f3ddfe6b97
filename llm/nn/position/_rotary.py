"""_rotary: rotation of channel pairs by position, shared by RoPE and the rules that stretch it.

Equations   (1)-(3) in docs/nn/position/rope.md; comments below carry the same numbers.
Source      Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34; half-split pairing as in Llama
Cost        O(T H) per head; no parameters, no state
Differs     from the paper: pairs are (i, i + H/2), not (2i, 2i+1): a fixed permutation of w_q and w_k
Shapes      B batch, N heads, T tokens, H width of the rotated vector
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import apply
from llm.nn.position.base import Position, Shape


class Rotary(Position):
    """Rotary position embedding. Angles are always float32 or finer: bf16 cannot count beyond 256."""

    relative = True
    way = "rotate"

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        for width in shape.widths:
            if width % 2:
                raise ValueError(f"model.position: rotation needs an even width, found d_head {width}")
        self.max_len = shape.max_len
        # Not in the checkpoint, and out of reach of module casts: `.to(bfloat16)` would round the angles.
        self._tables: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def frequencies(self, width: int) -> Tensor:
        """theta, the angle each of the width / 2 pairs turns per position: [H/2], float64 (1)."""

    def gain(self) -> float:
        """Factor on cos and sin; 1 but for YaRN's temperature."""
        return 1.0

    def tables(self, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, [max_len, H/2] each, computed in float64 and rounded once."""
        key = (width, dtype, device)
        if key not in self._tables:
            angles = torch.arange(self.max_len, dtype=torch.float64)[:, None] * self.frequencies(width)
            cos, sin = angles.cos() * self.gain(), angles.sin() * self.gain()
            self._tables[key] = (cos.to(device, dtype), sin.to(device, dtype))
        return self._tables[key]

    def angles(self, positions: Tensor, dtype: torch.dtype) -> "Angles":
        return Angles(self, positions, dtype)

    def rotate(self, x_BNTH: Tensor, angles: "Angles") -> Tensor:
        y_BNTH: Tensor = apply(Rotate, x_BNTH, *angles.of(x_BNTH.shape[-1]))
        return y_BNTH


class Angles:
    """cos and sin at given positions, looked up once for every width that asks."""

    def __init__(self, rotary: Rotary, positions: Tensor, dtype: torch.dtype) -> None:
        self.rotary, self.positions, self.dtype = rotary, positions, dtype
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, width: int) -> tuple[Tensor, Tensor]:
        """Rows of cos and sin: [T, H/2], or [B, 1, T, H/2] where each row has its own positions."""
        if width not in self._found:
            tables = self.rotary.tables(width, self.dtype, self.positions.device)
            cos, sin = (table[self.positions] for table in tables)
            rows = self.positions.dim() == 2
            self._found[width] = (cos[:, None], sin[:, None]) if rows else (cos, sin)
        return self._found[width]


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
