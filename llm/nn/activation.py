"""activation: SiLU, GELU (exact and tanh), ReLU and its square, and the gates made of them.

Equations   (1)-(4) in docs/nn/activation.md
Source      Hendrycks & Gimpel 2016, arXiv 1606.08415 (GELU, SiLU); So et al. 2021, arXiv 2109.08668 (squared ReLU)
Shapes      ... any leading dimensions, F hidden width
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from llm.nn.kernels.fused import SiluMulFunction, apply

ActivationKind = Literal["gelu", "gelu_tanh", "silu", "relu"]


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) (1)."""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """Exact GELU: x Phi(x) (2)."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation GPT-2 uses; differs from `gelu` by at most 4.7e-4 (3)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.clamp(min=0)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)^2 (4)."""
    return relu(x).square()


ACTIVATIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "relu": relu,
}


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for a [..., 2F] tensor that holds the gate first."""
    y: Tensor = apply(SiluMulFunction, gate_up)
    return y
