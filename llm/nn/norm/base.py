"""base: the interface of a normalisation layer.

Shapes      ... any leading dimensions, D channels
"""

from torch import Tensor, nn


class Norm(nn.Module):
    """Normalises the last dimension. Built as `build(config, dim)`.

    causal: a fact of the class, False when statistics mix tokens or rows while it is trained.
    """

    causal = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        raise TypeError(f"{type(self).__name__} defines no forward")
