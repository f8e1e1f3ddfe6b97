"""ALiBi: no vector for the position; a score loses a fixed amount for every token of distance.

Equations   (1)-(2) in docs/nn/position/alibi.md; comments below carry the same numbers.
Source      Press et al. 2022, arXiv 2108.12409, section 3; slopes for other numbers of heads than powers of
            two: the released code
Cost        O(N T S) additions a layer; no parameters, no state
Differs     from the release: -slope (i - j) is added, not slope j. A softmax does not see the difference, but
            bfloat16 does: here the numbers are small where they matter, close to the query.
Shapes      B batch, N heads, T query tokens, S key tokens
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llm.nn.position.base import Position, Shape


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields: the slopes follow from the number of heads."""


class AlibiPosition(Position):
    """bias[n, i, j] = -slope_n (i - j), added after scores were divided by sqrt(H)."""

    relative = True
    way = "bias"

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        # neither parameter nor buffer: a cast of the model to bf16 must not round the slopes
        self._slopes_N = torch.tensor(slopes(shape.n_heads), dtype=torch.float32)

    def bias(self, positions: Tensor, positions_S: Tensor) -> Tensor:
        distance_TS = (positions[..., :, None] - positions_S).float()
        slopes_N11 = self._slopes_N.to(positions.device)[:, None, None]
        return distance_TS.unsqueeze(-3) * -slopes_N11  # (2) [N, T, S] or [B, N, T, S]


def slopes(n_heads: int) -> list[float]:
    """2^(-8/N), 2^(-16/N), … 2^-8 for a power of two (1); else those of the power below, and as many as are
    missing of every other one of the power above."""
    power = 1 << (n_heads.bit_length() - 1)
    first = [2.0 ** (-8 * (n + 1) / power) for n in range(power)]
    between = [2.0 ** (-8 * (2 * n + 1) / (2 * power)) for n in range(n_heads - power)]
    return first + between


build = AlibiPosition
