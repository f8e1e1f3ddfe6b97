"""base: the interface of a feed-forward layer.

Shapes      B batch, T tokens, D d_model
"""

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class FFNOutput:
    """y_BTD; aux_loss: a scalar added to the training loss, or None; stats: telemetry, by name."""

    y_BTD: Tensor
    aux_loss: Tensor | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)


class FFN(nn.Module):
    """Transforms each token by itself. Built as `build(config, site)` with a `mixers.base.Site`."""

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> FFNOutput: ...

    def after_step(self) -> dict[str, float]:
        """Called once after every optimizer step: what changes by rule instead of by gradient (the balancing
        bias of experts); returns facts to log."""
        return {}


def gated_width(d_model: int) -> int:
    """Hidden width of a gated layer (three matrices) with the parameters of a plain 4 d_model one (two)."""
    return max(32, round(8 * d_model / 3 / 32) * 32)
