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
    """Transforms each token by itself."""

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> FFNOutput: ...
