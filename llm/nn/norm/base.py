"""base: the interface of a normalisation layer.

Shapes      ... any leading dimensions, D channels
"""

from torch import Tensor, nn


class Norm(nn.Module):
    """Normalises the last dimension. `causal` is False when statistics mix tokens or rows."""

    causal = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        raise TypeError(f"{type(self).__name__} defines no forward")
