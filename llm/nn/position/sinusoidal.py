"""sinusoidal: a fixed vector of sines and cosines for every place, added to the token embedding.

Equations   (1)-(2) in docs/nn/position/sinusoidal.md; comments below carry the same numbers.
Source      Vaswani et al. 2017, arXiv 1706.03762, section 3.5
Cost        O(T D); no parameters, no state
Differs     from the paper: there the token embedding is multiplied by sqrt(D) and the sinusoid is not scaled;
            here the sinusoid has a `scale`. What a Pre-LN model sees is the ratio of the two.
Shapes      T tokens, D d_model
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llm.nn.position.base import Position, Shape, check_places


@dataclass(frozen=True, kw_only=True)
class Config:
    """base: the slowest pair turns once in about 2 pi base tokens. layout: sine and cosine of a pair side by
    side (the paper), or all sines before all cosines. scale: factor on all of it; about the standard deviation
    of the token embedding at the start, for the ratio the paper has."""

    base: float = 10000.0
    layout: Literal["interleaved", "concatenated"] = "interleaved"
    scale: float = 0.02

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"base ({self.base}) must be greater than 1")
        if self.scale <= 0:
            raise ValueError(f"scale ({self.scale}) must be positive")


class SinusoidalPosition(Position):
    """PE[p, 2i] = sin(p w_i), PE[p, 2i + 1] = cos(p w_i), w_i = base^(-2i/D)."""

    way = "embed"

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        if shape.d_model % 2:
            raise ValueError(f"model.position: sines in pairs need an even d_model, found {shape.d_model}")
        self.max_len = shape.max_len
        pairs = torch.arange(0, shape.d_model, 2, dtype=torch.float64)
        omega = config.base ** (-pairs / shape.d_model)  # (1)
        angles = torch.arange(shape.max_len, dtype=torch.float64)[:, None] * omega
        if config.layout == "interleaved":
            table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (2)
        else:
            table = torch.cat([angles.sin(), angles.cos()], dim=-1)
        # Not in the checkpoint, and out of reach of module casts, as the tables of a rotation.
        self._tables = {torch.device("cpu"): (config.scale * table).float()}

    def embed(self, positions: Tensor) -> Tensor:
        check_places(positions, self.max_len)
        device = positions.device
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device][positions]


build = SinusoidalPosition
