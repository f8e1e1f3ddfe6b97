"""activation: SiLU, GELU (exact and tanh), and the fused SiLU gate.

Equations   (1)-(3) in docs/nn/activation.md
Source      Hendrycks & Gimpel 2016, arXiv 1606.08415 (GELU, SiLU)
Shapes      ... any leading dimensions, F hidden width
"""

import math

import torch
from torch import Tensor

from llm.nn.kernels.fused import SiluMulFunction, apply


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) (1)."""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """Exact GELU: x Phi(x) (2)."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation GPT-2 uses; differs from `gelu` by at most 4.7e-4 (3)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for a [..., 2F] tensor that holds the gate first."""
    y: Tensor = apply(SiluMulFunction, gate_up)
    return y
