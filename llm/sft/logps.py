"""logps: log-probabilities of given tokens, without ever holding all logits.

Hidden states go through the head in chunks of rows. What is kept of a chunk is one number a row, the
log-sum-exp; the backward pass makes the logits again, which costs one product with the head and saves the
largest tensors of preference and policy losses.

Equations   (1)-(4) in docs/sft/logps.md; comments below carry the same numbers.
Source      recomputation: Chen et al. 2016, arXiv 1604.06174, section 4
Cost        three products with the head instead of two; O(CHUNK V) memory instead of O(M V)
Differs     nothing: same numbers as log_softmax and gather, in float32
Shapes      M scored tokens, D d_model, V vocabulary
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256  # rows of logits that exist at a time
ROWS = 32  # rows are padded to a multiple: libraries keep a prepared kernel for every shape they meet


def target_logps(
    h_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log p(target) [M], differentiable, and the entropy of each distribution [M], not differentiable."""
    M = len(h_MD)
    extra = -M % ROWS
    h_MD, targets_M = F.pad(h_MD, (0, 0, 0, extra)), F.pad(targets_M, (0, extra))
    logp_M, entropy_M = TargetLogps.apply(h_MD, weight_VD, targets_M, temperature)
    return logp_M[:M], entropy_M[:M]


class TargetLogps(torch.autograd.Function):
    """Gradients for the hidden states and the head's weight."""

    @staticmethod
    def forward(
        ctx: Any, h_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        parts = [
            _chunk(h, weight_VD, target, temperature)
            for h, target in zip(h_MD.split(CHUNK), targets_M.split(CHUNK), strict=True)
        ]
        logp_M, entropy_M, total_M = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(h_MD, weight_VD, targets_M, total_M)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        h_MD, weight_VD, targets_M, total_M = ctx.saved_tensors
        grad_M = grads[0] / ctx.temperature
        d_h, d_weight = torch.empty_like(h_MD), torch.zeros_like(weight_VD, dtype=total_M.dtype)
        for start in range(0, len(h_MD), CHUNK):
            rows = slice(start, start + CHUNK)
            h, grad = h_MD[rows], grad_M[rows, None]
            probs = scaled_logits(h, weight_VD, ctx.temperature).sub_(total_M[rows, None]).exp_()
            # (4) d logits = g (onehot - p) / temperature
            d_logits = probs.mul_(-grad).scatter_add_(1, targets_M[rows, None], grad).to(h.dtype)
            torch.mm(d_logits, weight_VD, out=d_h[rows])
            d_weight += d_logits.t() @ h
        return d_h, d_weight.to(weight_VD.dtype), None, None


def scaled_logits(h: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature (1), in float32, or float64 where the model computes in it."""
    logits = h @ weight_VD.t()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if temperature == 1 else wide / temperature


def _chunk(
    h: Tensor, weight_VD: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(target) (2), entropy (3) and log-sum-exp of some rows."""
    logits = scaled_logits(h, weight_VD, temperature)
    top = logits.amax(-1, keepdim=True)
    exps = (logits - top).exp_()
    sums = exps.sum(-1)
    total = top.squeeze(-1) + sums.log()
    logp = logits.gather(-1, targets[:, None]).squeeze(-1) - total  # (2)
    mean_logit = torch.linalg.vecdot(exps, logits) / sums
    return logp, total - mean_logit, total  # (3) H = log sum exp - E[logit]
