"""Xavier: a compromise between keeping the variance on the way forward and on the way back.

Equations   (1)-(2) in docs/nn/init/xavier.md; comments below carry the same numbers.
Source      Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks, eq. 16
Differs     from the paper: `normal`; `depth_scale`, off by default, is GPT-2's; embeddings are normal with a std of
            their own
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from llm.nn.init.base import Init


@dataclass(frozen=True, kw_only=True)
class Config:
    """gain: factor on every std. depth_scale: divide matrices that write to the residual stream by
    sqrt(2 n_layers) (2)."""

    distribution: Literal["uniform", "normal"] = "uniform"
    gain: float = 1.0
    depth_scale: bool = False
    embedding_std: float = 0.02


class XavierInit(Init):
    """std = gain sqrt(2 / (rows + columns)), for each matrix of a fused weight by itself."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def matrix(self, weight: Tensor, *, parts: tuple[int, ...], residual: bool, n_layers: int) -> None:
        for part in weight.split(parts):  # stored as one, gate and up are still two matrices
            std = self.config.gain * math.sqrt(2 / sum(part.shape))  # (1)
            if residual and self.config.depth_scale:
                std /= math.sqrt(2 * n_layers)  # (2)
            if self.config.distribution == "normal":
                part.normal_(0.0, std)
            else:
                part.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std)

    def embedding(self, weight: Tensor) -> None:
        weight.normal_(0.0, self.config.embedding_std)


build = XavierInit
