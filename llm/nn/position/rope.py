"""RoPE: rotate each pair of channels by an angle proportional to the position.

Equations   (1)-(2) in docs/nn/position/rope.md; comments below carry the same numbers.
Source      Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34; half-split pairing as in Llama
Cost        O(T H) per head; no parameters, no state
Differs     from the paper: pairs are (i, i + H/2), not (2i, 2i+1): a fixed permutation of w_q and w_k
Shapes      B batch, N heads, T tokens, H d_head
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
        # Not in the checkpoint, and kept out of module casts: `.to(bfloat16)` would ruin the angles.
        self._tables = {torch.float32: (angles.cos().float(), angles.sin().float())}
        self._exact = angles

    def tables(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, [max_len, H/2] each, computed in float64 and rounded once."""
        key = dtype
        if key not in self._tables or self._tables[key][0].device != device:
            self._tables[key] = (self._exact.cos().to(device, dtype), self._exact.sin().to(device, dtype))
        return self._tables[key]

    def rotate(self, x_BNTH: Tensor, positions: Tensor) -> Tensor:
        high = torch.float64 if x_BNTH.dtype == torch.float64 else torch.float32
        cos, sin = self.tables(high, x_BNTH.device)
        cos, sin = cos[positions], sin[positions]  # [T, H/2] or [B, T, H/2]
        if positions.dim() == 2:
            cos, sin = cos[:, None], sin[:, None]
        a, b = x_BNTH.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x_BNTH.dtype)  # (2)


build = RotaryPosition
