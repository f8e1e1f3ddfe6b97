"""Kaiming: the variance of a layer's output equals that of its input, whatever its width.

Equations   (1)-(3) in docs/nn/init/kaiming.md; comments below carry the same numbers.
Source      He et al. 2015, Delving Deep into Rectifiers, arXiv 1502.01852, eq. 10 (fan-in form)
Differs     from the paper: `depth_scale`, off by default, is GPT-2's; embeddings are normal with a std of their own
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from llm.nn.init.base import Init


@dataclass(frozen=True, kw_only=True)
class Config:
    """nonlinearity: what follows a matrix, sets the gain (1); slope: of leaky_relu below zero. depth_scale: divide
    matrices that write to the residual stream by sqrt(2 n_layers) (3)."""

    distribution: Literal["normal", "uniform"] = "normal"
    nonlinearity: Literal["linear", "tanh", "relu", "leaky_relu"] = "relu"
    slope: float = 0.01
    depth_scale: bool = False
    embedding_std: float = 0.02


GAINS = {"linear": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2)}


class KaimingInit(Init):
    """std = gain / sqrt(columns)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        leaky = math.sqrt(2 / (1 + config.slope**2))
        self.gain = leaky if config.nonlinearity == "leaky_relu" else GAINS[config.nonlinearity]  # (1)

    def matrix(self, weight: Tensor, *, parts: tuple[int, ...], residual: bool, n_layers: int) -> None:
        std = self.gain / math.sqrt(weight.shape[1])  # (2)
        if residual and self.config.depth_scale:
            std /= math.sqrt(2 * n_layers)  # (3)
        if self.config.distribution == "normal":
            weight.normal_(0.0, std)
        else:
            weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std)

    def embedding(self, weight: Tensor) -> None:
        weight.normal_(0.0, self.config.embedding_std)


build = KaimingInit
