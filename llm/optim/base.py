"""base: what every optimizer here has in common: groups, float32 states, a learning rate with a factor.

A variant writes its maths as one function `update(params, grads, states..., *, lr, ...)` over lists of
tensors, in place, and a thin class that fetches the lists. The loop sets the factor of the schedule
before every step. A weight may carry facts for optimizers, declared by the module that owns it:

    self.w_qkv.weight.parts = (n_q, n_k, n_v)   # rows: three matrices stored as one (see muon)
    self.decay_log.elementwise = True           # a table of numbers, no matrix product: no Muon, no decay
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Optimizer(torch.optim.Optimizer):
    """Decoupled weight decay on matrices only; `schedule(factor)` scales each group's own rate."""

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        undecayed: Collection[nn.Parameter],
    ) -> None:
        groups = decay_groups(params, weight_decay, undecayed)
        super().__init__(groups, {"lr": lr, "base_lr": lr, "weight_decay": weight_decay})

    def schedule(self, factor: float) -> None:
        """Set every group's rate to `factor` times the rate it was built with."""
        for group in self.param_groups:
            group["lr"] = factor * group["base_lr"]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("optimizer: closures are not supported; compute the gradients first")
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self.update_group(params, [param.grad for param in params], group)

    @abstractmethod
    def update_group(self, params: list[nn.Parameter], grads: list[Tensor], group: dict[str, Any]) -> None:
        """Fetch or create the states of `params` and call the variant's `update`."""

    def buffers(self, params: Sequence[nn.Parameter], name: str) -> list[Tensor]:
        """The float32 state `name` of each parameter, zeros at first."""
        for param in params:
            if name not in self.state[param]:
                self.state[param][name] = torch.zeros_like(param, dtype=torch.float32)
        return [self.state[param][name] for param in params]

    def advance(self, params: Sequence[nn.Parameter]) -> list[int]:
        """Count one more update of each parameter; returns the counts, from 1."""
        for param in params:
            self.state[param]["step"] = self.state[param].get("step", 0) + 1
        return [self.state[param]["step"] for param in params]


def decay_groups(
    params: Sequence[nn.Parameter], weight_decay: float, undecayed: Collection[nn.Parameter]
) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay; gains, biases and the `undecayed` ones do not."""
    kept = {id(param) for param in undecayed}
    kept |= {id(param) for param in params if param.ndim < 2 or getattr(param, "elementwise", False)}
    decayed = [param for param in params if id(param) not in kept]
    rest = [param for param in params if id(param) in kept]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def check_rates(*, lr: float, weight_decay: float, **fractions: float) -> None:
    """Raises ValueError for a rate that is negative or not finite, or a fraction outside [0, 1)."""
    for name, value in {"lr": lr, "weight_decay": weight_decay}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} ({value}) must be at least 0 and finite")
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} ({value}) must be in [0, 1)")
