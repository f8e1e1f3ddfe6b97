"""none: no adapter; every weight of the model trains (full fine-tuning).

Cost        train: gradients and optimizer state for all P parameters, instead of R (I + O) a layer
Differs     nothing
"""

from dataclasses import dataclass

from torch import nn

from llm.peft.base import AdaptedLinear, Adapter


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class NoAdapter(Adapter):
    """Attaches to nothing and leaves every parameter trainable."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def attach(self, model: nn.Module) -> list[str]:
        model.requires_grad_(True)
        return []

    def wrap(self, linear: nn.Linear) -> AdaptedLinear:
        return AdaptedLinear(linear)

    def merge(self, module: AdaptedLinear) -> nn.Linear:
        return module.linear


build = NoAdapter
