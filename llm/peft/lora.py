"""LoRA: learn the change of a weight matrix as a product of two thin ones.

Equations   (1)-(3) in docs/peft/lora.md; comments below carry the same numbers.
Source      Hu et al. 2021, arXiv 2106.09685, section 4.1; rank_stabilized: Kalajdzievski 2023,
            arXiv 2312.03732
Cost        train O(R (I + O)) extra time and numbers per layer and token; nothing after merging
Differs     from the paper: A is uniform with bound 1 / sqrt(I), as in `peft`, instead of Gaussian
Shapes      ... any leading dimensions, I inputs, O outputs, R rank
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.peft.base import AdaptedLinear, Adapter


@dataclass(frozen=True, kw_only=True)
class Config:
    """alpha: the update is scaled by alpha / rank. targets: layer names, see llm/peft/base.py."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank ({self.rank}) must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1")

    @property
    def scale(self) -> float:
        """The factor before B A: alpha / R, rank-stabilized alpha / sqrt(R)."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class LoRALinear(AdaptedLinear):
    """y = W x + b + s B A dropout(x); only A [R, I] and B [O, R] train."""

    def __init__(self, linear: nn.Linear, config: Config) -> None:
        super().__init__(linear)
        self.config = config
        weight = linear.weight
        self.lora_a = nn.Parameter(weight.new_empty(config.rank, linear.in_features))
        self.lora_b = nn.Parameter(weight.new_zeros(linear.out_features, config.rank))  # (2): B = 0
        bound = 1 / math.sqrt(linear.in_features)
        nn.init.uniform_(self.lora_a, -bound, bound)  # (2)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.dropout(x, self.config.dropout, self.training), self.lora_a)
        return self.linear(x) + F.linear(low, self.lora_b) * self.config.scale  # (1)

    @property
    def weight(self) -> Tensor:
        return self.linear.weight + self.lora_b @ self.lora_a * self.config.scale


class LoRA(Adapter):
    """Adapter of the kind `lora`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.targets = config.targets

    def wrap(self, linear: nn.Linear) -> LoRALinear:
        return LoRALinear(linear, self.config)

    @torch.no_grad()
    def merge(self, module: AdaptedLinear) -> nn.Linear:
        """W + s B A (3), added in float32 and rounded once."""
        assert isinstance(module, LoRALinear)
        linear = module.linear
        update = module.lora_b.float() @ module.lora_a.float() * self.config.scale
        linear.weight.copy_(linear.weight.float() + update)  # (3)
        return linear.requires_grad_(True)


build = LoRA
