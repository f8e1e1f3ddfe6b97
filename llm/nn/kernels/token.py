"""token: what a layer does differently, and no other way, when it reads a single token.

A token is a vector of a few hundred numbers. An operation on it is done before PyTorch has found out which one
was asked for, so what counts is how often Python looks something up and how a product starts.

Equations   (1)-(2) in docs/nn/kernels/token.md; comments below carry the same numbers.
Source      own measurements, on that page
Shapes      ... any leading dimensions or none, I inputs and O outputs of a linear layer
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OWN_KERNEL_BELOW = 3 << 17  # numbers of a bf16 matrix; oneDNN is the faster one from there on


class Module(nn.Module):
    """nn.Module whose sub-modules are plain attributes, too.

    PyTorch keeps them in a dictionary of its own and finds them there only after Python's search has failed and
    raised: thirty times the cost of an attribute. What is registered stays what it was; assigning anew, as
    adapters and quantizers do, and deleting change both.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self.__dict__.get("_modules", ()):
            self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self._modules:
            self.__dict__.pop(name, None)
        super().__delattr__(name)


class Linear(nn.Linear):
    """nn.Linear without a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight_OI = self._parameters["weight"]  # found at once, for the reason given above
        assert weight_OI is not None
        return product(x, weight_OI)


def product(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T (1), for a vector x as W x (2): the same sums, but W is read where it lies instead of being
    packed for a product of matrices first."""
    if x.dim() != 1:
        return F.linear(x, weight_OI)
    if x.dtype != torch.bfloat16 or weight_OI.numel() >= OWN_KERNEL_BELOW:
        return torch.mv(weight_OI, x)
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # oneDNN takes longer to begin than PyTorch to finish
    try:
        return torch.mv(weight_OI, x)
    finally:
        torch._C._set_mkldnn_enabled(enabled)
