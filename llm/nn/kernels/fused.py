"""fused: normalisation, gate and loss with hand-written backward passes.

PyTorch would derive the same gradients from the plain forms (which the tests do); written out, they
touch memory half as often, and on a CPU memory is what a small model waits for.

Equations   (1)-(6) in docs/nn/kernels/fused.md; comments below carry the same numbers.
Source      RMSNorm: arXiv 1910.07467; SwiGLU: arXiv 2002.05202; the loss that computes its gradient while
            the logits are at hand: Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, section 3.2
Shapes      ... any leading dimensions, D channels, F d_ff, M scored tokens, V vocabulary
"""

import functools
from typing import Any

import torch
from torch import Tensor

LOGIT_BYTES = 1 << 26  # logits of at most 64 MiB exist at a time


def high(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics: float32, or float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@functools.cache
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor, made once: PyTorch makes one anew of every Python number it adds or multiplies,
    which for one token costs as much as the operation itself."""
    with torch.inference_mode(False):  # so that training may use it, too
        return torch.tensor(value, dtype=dtype, device=device)


def _times(x: Tensor, scale: Tensor) -> Tensor:
    """x * scale, multiplied in the wider dtype and rounded once to that of x."""
    return torch.mul(x, scale, out=torch.empty_like(x, memory_format=torch.contiguous_format))


class _NoGraph:
    """Stands in for the context of an autograd function where nothing is to be remembered."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Forget it."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Forget them."""


_NO_GRAPH = _NoGraph()


def apply(function: Any, *args: Any) -> Any:
    """`function.apply(*args)`; without gradients just its forward pass, at half the cost for one token."""
    return function.apply(*args) if torch.is_grad_enabled() else function.forward(_NO_GRAPH, *args)


class RMSNormFunction(torch.autograd.Function):
    """y = gain * x * r with r = 1 / sqrt(mean(x^2) + eps) (1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=high(x.dtype))
        like = norm.dtype, norm.device
        D, epsilon = constant(x.shape[-1], *like), constant(eps, *like)
        mean = torch.addcdiv(epsilon, norm * norm, D)  # eps + |x|^2 / D
        # rounded to the dtype of x: products of two dtypes make copies of both sides
        r = mean.rsqrt_().to(x.dtype)
        normed = x * r
        ctx.save_for_backward(normed, gain, r)
        return normed * gain

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, gain, r = ctx.saved_tensors
        [d_y] = grads
        product = d_y * normed
        d_gain = product.flatten(0, -2).sum(0)
        # (2) dx = r (dn - n mean(n dn)), dn = gain dy: the part along n is what normalising removed
        along = (product @ gain).unsqueeze(-1).div_(normed.shape[-1])
        return torch.addcmul(d_y * gain, normed, along, value=-1).mul_(r), d_gain, None


class SiluMulFunction(torch.autograd.Function):
    """silu(gate) * up for a tensor [..., 2F] that holds the gate first (3)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        ctx.save_for_backward(up, sigmoid, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        up, sigmoid, silu = ctx.saved_tensors
        [d_y] = grads
        d_gate_up = torch.empty((*d_y.shape[:-1], 2 * d_y.shape[-1]), dtype=d_y.dtype, device=d_y.device)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(d_y, silu, out=d_up)
        # (4) silu' = s + silu (1 - s), a mean of silu and 1
        slope = torch.lerp(silu, torch.ones_like(silu[..., :1]), sigmoid)
        torch.mul(slope.mul_(up), d_y, out=d_gate)
        return d_gate_up


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of -log softmax(h W^T)[target], the gradient made in the same pass (5)-(6).

    Logits are made, used and forgotten in chunks of rows: the [M, V] matrix never exists twice.
    """

    @staticmethod
    def forward(ctx: Any, h_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
        wide = high(h_MD.dtype)
        rows = max(1, LOGIT_BYTES // (weight_VD.shape[0] * h_MD.element_size()))
        d_h, d_weight = torch.empty_like(h_MD), None
        total = torch.zeros((), dtype=wide, device=h_MD.device)
        for start in range(0, len(h_MD), rows):
            h, target = h_MD[start : start + rows], targets_M[start : start + rows]
            probs = torch.softmax(h @ weight_VD.t(), dim=-1)
            index = torch.arange(len(h), device=h.device), target  # scatter_ would copy all of probs
            chosen = probs[index]
            total -= chosen.to(wide).clamp_min(torch.finfo(wide).tiny).log().sum()  # (5)
            probs[index] = chosen - 1  # (6) d logits = p - onehot
            torch.mm(probs, weight_VD, out=d_h[start : start + rows])
            part = probs.t() @ h
            d_weight = part if d_weight is None else d_weight.to(wide).add_(part)
        ctx.save_for_backward(d_h, torch.zeros_like(weight_VD) if d_weight is None else d_weight)
        ctx.dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        d_h, d_weight = ctx.saved_tensors
        return _times(d_h, grads[0]), _times(d_weight, grads[0]).to(ctx.dtype), None
