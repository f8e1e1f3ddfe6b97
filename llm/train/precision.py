"""precision: fp32 training, or bf16 weights with float32 masters held beside them.

In bf16 the model computes, and stores its weights and activations, in bfloat16 (8 bits of mantissa). A
step that changes a weight by less than 1/256 of itself would vanish there, so the optimizer works on
float32 copies, the masters; the model's weights are roundings of them, refreshed after every step.

    weights (bf16) --forward, backward--> gradients (bf16) --collect: add up in float32--> master.grad
    masters (fp32) --optimizer step--> masters --publish: round--> weights

In fp32 the weights are their own masters and nothing is copied. Buffers (running statistics, the balancing bias
of experts) and position tables keep their dtype.
"""

from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn

PrecisionKind = Literal["fp32", "bf16"]


class MasterWeights:
    """Owns the float32 truth of a model while it is trained; a context manager.

    On exit, error or not, the model holds the masters' values in float32 again.
    """

    def __init__(self, model: nn.Module, precision: PrecisionKind) -> None:
        self.low = precision == "bf16"
        named = list(model.named_parameters())
        self._all = [(param, param.data) for _, param in named]  # the float32 tensors, frozen ones too
        trainable = [(name, param) for name, param in named if param.requires_grad]
        self._weights: list[Tensor] = [param for _, param in trainable]
        self.masters = dict(trainable)
        if self.low:
            self.masters = {name: _master_of(param) for name, param in trainable}
            self._sums = [torch.zeros_like(master) for master in self.masters.values()]
            for _, param in named:
                if param.dtype == torch.float32:
                    param.grad = None
                    param.data = param.data.bfloat16()

    def __enter__(self) -> "MasterWeights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.low:
            return
        for param, data in self._all:  # a master shares its memory with the tensor the parameter came with
            param.grad = None
            param.data = data

    def collect(self) -> None:
        """After the backward pass of each micro-batch: move the gradients to the masters, in float32."""
        if not self.low:
            return
        first: tuple[list[Tensor], list[Tensor]] = ([], [])
        later: tuple[list[Tensor], list[Tensor]] = ([], [])
        for master, weight, total in zip(self.masters.values(), self._weights, self._sums, strict=True):
            if weight.grad is None:
                continue
            totals, grads = first if master.grad is None else later
            totals.append(total)
            grads.append(weight.grad)
            master.grad, weight.grad = total, None
        if first[0]:
            torch._foreach_copy_(*first)
        if later[0]:
            torch._foreach_add_(*later)

    def clip(self, max_norm: float) -> float:
        """Scale all gradients so that their global norm is at most `max_norm` (0: never); returns the norm before."""
        grads = self.grads()
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        value = float(norm)  # the one synchronisation of a step, needed to log it and to stop on nan
        if 0 < max_norm < value:
            torch._foreach_mul_(grads, max_norm / (value + 1e-6))
        return value

    def grads(self) -> list[Tensor]:
        """Gradients of the masters that have one."""
        grads = [master.grad for master in self.masters.values() if master.grad is not None]
        if not grads:
            raise ValueError(
                "train: no parameter has a gradient; the objective does not depend on the trainable ones"
            )
        return grads

    @torch.no_grad()
    def publish(self) -> None:
        """After the optimizer step: round the masters into the weights and drop the gradients."""
        if self.low:
            torch._foreach_copy_(self._weights, list(self.masters.values()))
        for master in self.masters.values():
            master.grad = None

    def state(self) -> dict[str, Tensor]:
        """The masters by name."""
        return {name: master.detach() for name, master in self.masters.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, master in self.masters.items():
            master.copy_(state[name])
        self.publish()


def _master_of(param: nn.Parameter) -> nn.Parameter:
    master = nn.Parameter(param.data)
    for fact in ("parts", "elementwise"):  # what the owner of a weight tells the optimizers
        if hasattr(param, fact):
            setattr(master, fact, getattr(param, fact))
    return master
