"""AdamW: steps of nearly equal size for every number, from running means of gradient and squared gradient.

Equations   (1)-(4) in docs/optim/adamw.md; comments below carry the same numbers.
Source      Kingma & Ba 2014, arXiv 1412.6980, algorithm 1; Loshchilov & Hutter 2017, arXiv 1711.05101,
            algorithm 2 (decoupled decay)
Cost        O(P) per step; two float32 numbers of state per parameter
Differs     from the paper: the decay is multiplied by the scheduled learning rate, as in every library
Shapes      P numbers in all parameters together
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm.optim.base import Optimizer, check_rates


@dataclass(frozen=True, kw_only=True)
class Config:
    """beta1, beta2: decay of the running means; eps stands outside the root. Vectors are never decayed."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check_rates(lr=self.lr, weight_decay=self.weight_decay, beta1=self.beta1, beta2=self.beta2)


def update(
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[int],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One step in place, over all tensors at once; `steps` counts this one too, so it starts at 1."""
    torch._foreach_lerp_(means, grads, 1 - beta1)  # (1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)  # (2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [math.sqrt(1 - beta2**step) for step in steps])
    torch._foreach_add_(roots, eps)
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)  # (3)
    torch._foreach_addcdiv_(params, means, roots, [-lr / (1 - beta1**step) for step in steps])  # (4)


class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    def __init__(
        self, config: Config, params: Sequence[nn.Parameter], *, undecayed: Collection[nn.Parameter] = ()
    ) -> None:
        self.config = config
        super().__init__(params, lr=config.lr, weight_decay=config.weight_decay, undecayed=undecayed)

    def update_group(self, params: list[nn.Parameter], grads: list[Tensor], group: dict[str, Any]) -> None:
        update(
            list(params),
            grads,
            self.buffers(params, "mean"),
            self.buffers(params, "square"),
            self.advance(params),
            lr=group["lr"],
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            eps=self.config.eps,
            weight_decay=group["weight_decay"],
        )


build = AdamW
