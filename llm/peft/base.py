"""base: an adapter changes chosen linear layers so that few numbers train and a plain model comes out.

    adapter = registry.build(config)      # one of the files beside this one
    names = adapter.attach(model)         # freeze the model, wrap the target layers
    ... train; adapter.on_step(step) before every step ...
    adapter.merge_into(model)             # every wrapped layer becomes one nn.Linear again

Targets are the last part of a layer's name (`w_qkv` means that layer of every block) or a whole name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class AdaptedLinear(nn.Module):
    """A frozen linear layer and the trainable tensors beside it; each kind has its own subclass."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    @property
    def weight(self) -> Tensor:
        """The weight as merging would make it, differentiable: for losses that fuse the head into themselves."""
        return self.linear.weight


class Adapter(ABC):
    """What one kind of adapter does to one layer, and to a model made of such layers.

    targets: names as in the module docstring. `wrap` must leave the layer's output as it is; `merge` is the
    plain layer with the same output as the wrapped one (without dropout).
    """

    targets: tuple[str, ...] = ()

    @abstractmethod
    def wrap(self, linear: nn.Linear) -> AdaptedLinear: ...

    @abstractmethod
    def merge(self, module: AdaptedLinear) -> nn.Linear: ...

    def on_step(self, step: int) -> None:
        """Called before every training step; adapters that move their budget around override it."""
        return

    def attach(self, model: nn.Module) -> list[str]:
        """Freeze `model`, wrap the target layers in place and return their names.

        Raises:
            ValueError: a target matches no layer, or one whose weight another module shares.
        """
        names = match(model, self.targets)
        model.requires_grad_(False)
        for name in names:
            _replace(model, name, self.wrap(model.get_submodule(name)))  # type: ignore[arg-type]
        return names

    def merge_into(self, model: nn.Module) -> list[str]:
        """Replace every wrapped layer by its merged one, in place; returns their names."""
        wrapped = list(adapted(model))
        for name, module in wrapped:
            _replace(model, name, self.merge(module))
        return [name for name, _ in wrapped]


def adapted(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """The wrapped layers of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            yield name, module


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors beside the frozen layers, float32, by full name: what an adapter file holds."""
    return {
        f"{layer}.{name}": parameter.detach().to("cpu", torch.float32).contiguous()
        for layer, module in adapted(model)
        for name, parameter in module.named_parameters()
        if not name.startswith("linear.")
    }


def match(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear layers that `targets` name, in model order.

    Raises:
        ValueError: a target matches no layer, or one whose weight another module shares (a tied head).
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    known = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers))
    if not targets:
        raise ValueError(f"peft.targets: no layer named; layers are {known}")
    for target in targets:
        if not any(_is_named(name, target) for name in layers):
            raise ValueError(f"peft.targets: {target!r} matches no layer; layers are {known}")
    names = [name for name in layers if any(_is_named(name, target) for target in targets)]
    owners = [tensor for module in model.modules() for tensor in module.parameters(recurse=False)]
    for name in names:
        if sum(tensor is layers[name].weight for tensor in owners) > 1:
            raise ValueError(f"peft.targets: the weight of {name!r} is tied to another layer; leave it out")
    return names


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
