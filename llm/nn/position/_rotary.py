"""_rotary: rotation of channel pairs by position, shared by RoPE and the rules that stretch it.

Equations   (1)-(3) in docs/nn/position/rope.md; comments below carry the same numbers.
Source      Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34; half-split pairing as in Llama; rotating only
            the first channels as in GPT-NeoX, arXiv 2204.06745, section 2.1
Cost        O(T H) per head; no parameters, no state
Differs     from the paper: pairs are (i, i + H/2), not (2i, 2i+1), unless `layout: interleaved` is chosen: a
            fixed permutation of the rows of w_q and w_k
Shapes      B batch, N heads, T tokens, H width of a head, R channels of it that are rotated
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.fused import apply
from llm.nn.position.base import Position, Shape, check_places

Layout = Literal["half", "interleaved"]


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """base: the slowest pair turns once in about 2 pi base tokens. fraction: share of a head's channels, the
    first ones, that is rotated at all. layout: which channels are a pair, (i, i + R/2) or (2i, 2i + 1)."""

    base: float = 10000.0
    fraction: float = 1.0
    layout: Layout = "half"

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"base ({self.base}) must be greater than 1")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction ({self.fraction}) must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class StretchConfig(RotaryConfig):
    """factor: how many times longer than in training the texts are to be (1: plain RoPE)."""

    factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1:
            raise ValueError(f"factor ({self.factor}) must be at least 1")


class Rotary(Position):
    """Rotary position embedding. Angles are always computed in float64: bf16 cannot count beyond 256."""

    relative = True
    way = "rotate"
    least_width = 2  # of the rotated channels

    def __init__(self, config: RotaryConfig, shape: Shape) -> None:
        super().__init__()
        self.base, self.fraction, self.layout = config.base, config.fraction, config.layout
        self.max_len = shape.max_len
        for width in shape.widths:
            if (R := self.rotated(width)) % 2 or self.least_width > R:
                raise ValueError(
                    f"model.position: rotation needs an even width of at least {self.least_width}, "
                    f"found {R} channels (d_head {width}, fraction {self.fraction:g})"
                )
        # Not in the checkpoint, and out of reach of module casts: `.to(bfloat16)` would round the angles.
        self._tables: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._whole: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    @abstractmethod
    def frequencies(self, width: int) -> Tensor:
        """theta, the angle each of the R/2 pairs turns per position, for `width` = R channels: float64 (1)."""

    def gain(self) -> float:
        """Factor on cos and sin; 1 but for YaRN's temperature."""
        return 1.0

    def rotated(self, width: int) -> int:
        """R, the channels of a head of `width` that are rotated."""
        return int(width * self.fraction + 1e-6)  # 0.29 * 100 is a little below 29

    def tables(self, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, [max_len, R/2] each, computed in float64 and rounded once."""
        key = (width, dtype, device)
        if key not in self._tables:
            frequencies = self.frequencies(self.rotated(width))
            angles = torch.arange(self.max_len, dtype=torch.float64)[:, None] * frequencies
            cos, sin = angles.cos() * self.gain(), angles.sin() * self.gain()
            self._tables[key] = (cos.to(device, dtype), sin.to(device, dtype))
        return self._tables[key]

    def whole(self, width: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """[cos, cos, -sin, sin] of all channels of a head, [max_len, 2 H]; None unless they are all rotated, as
        pairs (i, i + H/2)."""
        if self.layout != "half" or self.rotated(width) != width:
            return None
        key = (width, dtype, device)
        if key not in self._whole:
            cos, sin = self.tables(*key)
            self._whole[key] = torch.cat([cos, cos, -sin, sin], -1)
        return self._whole[key]

    def angles(self, positions: Tensor, dtype: torch.dtype) -> "Angles":
        check_places(positions, self.max_len)
        return Angles(self, positions, dtype)

    def rotate(self, x_BNTH: Tensor, angles: "Angles") -> Tensor:
        _, _, tokens, width = x_BNTH.shape
        whole = angles.whole(width) if tokens == 1 and not torch.is_grad_enabled() else None
        if whole is not None:
            return turn_token(x_BNTH, *whole)
        y_BNTH: Tensor = apply(Rotate, x_BNTH, *angles.of(width), self.layout)
        return y_BNTH


def geometric(base: float, width: int) -> Tensor:
    """theta_i = base^(-2i / width) for every pair of `width` channels, float64 (1)."""
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


class Angles:
    """cos and sin at given positions, looked up once for every width that asks."""

    def __init__(self, rotary: Rotary, positions: Tensor, dtype: torch.dtype) -> None:
        self.rotary, self.positions, self.dtype = rotary, positions, dtype
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        self._whole: dict[int, tuple[Tensor, Tensor] | None] = {}

    def of(self, width: int) -> tuple[Tensor, Tensor]:
        """Rows of cos and sin: [T, R/2], or [B, 1, T, R/2] where each row has its own positions."""
        if width not in self._found:
            tables = self.rotary.tables(width, self.dtype, self.positions.device)
            cos, sin = (table[self.positions] for table in tables)
            rows = self.positions.dim() == 2
            self._found[width] = (cos[:, None], sin[:, None]) if rows else (cos, sin)
        return self._found[width]

    def whole(self, width: int) -> tuple[Tensor, Tensor] | None:
        """[cos, cos] and [-sin, sin], one number for each of the H channels: what `turn_token` takes; None where
        it does not apply."""
        if width not in self._whole:
            table = self.rotary.whole(width, self.dtype, self.positions.device)
            places = self.positions[:, None] if self.positions.dim() == 2 else self.positions
            self._whole[width] = None if table is None else F.embedding(places, table).split(width, -1)
        return self._whole[width]


class Rotate(torch.autograd.Function):
    """Turn each pair (a, b) by its angle (2); the gradient turns back by the same angle (3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout = "half") -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout
        return turn(x, cos, sin, sign=1, layout=layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(grads[0], cos, sin, sign=-1, layout=ctx.layout), None, None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int, layout: Layout = "half") -> Tensor:
    """(a, b) -> (a cos - sign b sin, b cos + sign a sin), written into one contiguous tensor; channels beyond
    the pairs of cos are copied."""
    R = 2 * cos.shape[-1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (a, b), (ya, yb) = _pairs(x[..., :R], layout), _pairs(y[..., :R], layout)
    if torch.compiler.is_compiling():  # a compiler loses what is written through `out` into part of a tensor
        ya.copy_(a * cos - sign * b * sin)
        yb.copy_(b * cos + sign * a * sin)
    else:
        torch.mul(a, cos, out=ya).addcmul_(b, sin, value=-sign)
        torch.mul(b, cos, out=yb).addcmul_(a, sin, value=sign)
    if x.shape[-1] > R:
        y[..., R:] = x[..., R:]
    return y


def turn_token(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`turn` of a whole head in the half layout, the same bits, in three operations instead of eleven: with the
    halves of x exchanged, (b, a), it is x [cos, cos] + (b, a) [-sin, sin]. For single tokens, where an operation
    costs more to start than to carry out; it reads x twice."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _pairs(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Views of the first and the second channels of all pairs."""
    if layout == "half":
        half = x.shape[-1] // 2
        return x[..., :half], x[..., half:]
    return x[..., ::2], x[..., 1::2]


def interleaved_to_half(width: int) -> Tensor:
    """Which interleaved channel stands where in the half layout: [0, 2, 4, .., 1, 3, 5, ..].

    `weight[interleaved_to_half(R)]` are rows that, rotated as pairs (i, i + R/2), give the scores of `weight`
    rotated as pairs (2i, 2i + 1); `torch.argsort` of the index leads back. For queries and keys alike.
    """
    return torch.arange(width).view(-1, 2).T.flatten()
