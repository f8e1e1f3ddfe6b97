"""base: the interface of a weight initialisation.

A variant says how one matrix and one table are filled; `apply` finds them:

    nn.Linear                    a matrix [out, in]; bias 0
    3-D parameter                a stack of matrices [E, out, in] (experts), each filled by the same rule
    nn.Embedding                 a table
    finish_init of a module      weights with a rule of their own, last

A parameter marked `elementwise` is no matrix. `parts` are the rows of the matrices stored as one weight.
"""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Init:
    """Fills weights in place; gains stay 1 and biases 0."""

    @abstractmethod
    def matrix(self, weight: Tensor, *, parts: tuple[int, ...], residual: bool, n_layers: int) -> None:
        """Fill one [out, in] matrix, or several below each other with `parts` rows. residual: it writes to the
        residual stream (`w_o`, `w_down`)."""

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
                    self._fill(name, module.weight, module.weight, n_layers)
                    if module.bias is not None:
                        module.bias.zero_()
                for child, stack in _stacks(module):
                    for weight in stack.unbind():
                        self._fill(child, stack, weight, n_layers)
            for module in model.modules():
                # weights with a rule of their own: decays, time steps, routers
                finish = getattr(module, "finish_init", None)
                if finish is not None:
                    finish()

    def _fill(self, name: str, owner: Tensor, weight: Tensor, n_layers: int) -> None:
        residual = name.rsplit(".", 1)[-1] in ("w_o", "w_down")
        parts: tuple[int, ...] = getattr(owner, "parts", (weight.shape[0],))
        self.matrix(weight, parts=parts, residual=residual, n_layers=n_layers)


def _stacks(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The stacks of matrices that belong to `module` itself."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 3 and not getattr(parameter, "elementwise", False):
            yield name, parameter
