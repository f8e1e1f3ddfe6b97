"""gpt2: normal weights, smaller where they write to the residual stream.

Equations   (1)-(2) in docs/nn/init/gpt2.md
Source      Radford et al. 2019 (GPT-2), section 2.3
Differs     from the report: nothing; `residual_scale: 0` starts every block as the identity
"""

import math
from dataclasses import dataclass

from torch import Tensor

from llm.nn.init.base import Init


@dataclass(frozen=True, kw_only=True)
class Config:
    """std: standard deviation; residual_scale: factor on matrices that write to the residual stream."""

    std: float = 0.02
    residual_scale: float = 1.0


class GPT2Init(Init):
    """N(0, std); residual matrices N(0, residual_scale std / sqrt(2 n_layers))."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def matrix(self, weight: Tensor, *, parts: tuple[int, ...], residual: bool, n_layers: int) -> None:
        std = self.config.std
        if residual:
            std *= self.config.residual_scale / math.sqrt(2 * n_layers)  # (2)
        weight.normal_(0.0, std)  # (1)

    def embedding(self, weight: Tensor) -> None:
        weight.normal_(0.0, self.config.std)


build = GPT2Init
