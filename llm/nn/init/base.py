"""base: the interface of a weight initialisation.

An initialisation is a function `(name, parameter, n_layers) -> None` that fills the parameter in place;
`residual` tells whether the matrix writes to the residual stream (`w_o`, `w_down`).
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn


class Init:
    """Fills weights in place; gains stay 1 and biases 0."""

    @abstractmethod
    def matrix(self, weight: Tensor, *, residual: bool, n_layers: int) -> None:
        """Fill one [out, in] matrix."""

    @abstractmethod
    def embedding(self, weight: Tensor) -> None:
        """Fill one [vocabulary, d_model] table."""

    def apply(self, model: nn.Module, n_layers: int) -> None:
        """Fill every matrix and table of `model` once, in the order of `named_modules`."""
        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, nn.Embedding):
                    self.embedding(module.weight)
                elif isinstance(module, nn.Linear):
                    residual = name.rsplit(".", 1)[-1] in ("w_o", "w_down")
                    self.matrix(module.weight, residual=residual, n_layers=n_layers)
                    if module.bias is not None:
                        module.bias.zero_()
            for module in model.modules():
                if hasattr(module, "finish_init"):  # weights with a rule of their own: decays, time steps, routers
                    module.finish_init()
