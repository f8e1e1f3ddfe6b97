"""telemetry: what happens inside the model: activation sizes, gradient norms, the first non-finite tensor.

Hooks are attached for one step and removed again, so that steps without telemetry pay nothing.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from llm.nn.objective import Objective, TokenBatch


@contextlib.contextmanager
def activations(model: nn.Module, *, watch: bool = True) -> Iterator[dict[str, float]]:
    """Within the `with`, every forward pass fills the mapping with `act_rms/<block>`: the root mean square of
    the residual stream after a block, in float32. A healthy Pre-LN stream grows slowly with depth.

    watch: False attaches nothing, and the mapping stays empty.
    """
    sizes: dict[str, float] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        for x in tensors(output):
            sizes[f"act_rms/{name}"] = float(x.detach().float().square().mean().sqrt())
            return

    modules = model.named_modules() if watch else []
    blocks = [(name, module) for name, module in modules if name.split(".")[-2:-1] == ["blocks"]]
    handles = [module.register_forward_hook(partial(record, name)) for name, module in blocks]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def gradient_norms(masters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """`grad_norm/<part>` of every block and of every other top-level part (embedding, head, final norm)."""
    parts: dict[str, list[Tensor]] = {}
    for name, master in masters.items():
        if master.grad is not None:
            parts.setdefault(part_of(name), []).append(master.grad)
    return {f"grad_norm/{part}": float(_norm(grads)) for part, grads in parts.items()}


def part_of(name: str) -> str:
    """`blocks.3.mixer.w_o.weight` -> `blocks.3`; `head.weight` -> `head`."""
    words = name.split(".")
    return ".".join(words[: words.index("blocks") + 2]) if "blocks" in words else words[0]


def first_non_finite(
    model: nn.Module, masters: Mapping[str, nn.Parameter], rerun: Callable[[], object]
) -> str:
    """Name the first non-finite tensor of a step that went wrong: a weight, else an output met while `rerun`
    repeats the forward passes, else a gradient, else the loss itself.
    """
    for name, master in masters.items():
        if not finite(master):
            return f"the weight {name}"
    found: list[str] = []

    def check(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not found and not all(finite(x) for x in tensors(output)):
            found.append(f"the output of {name}")

    handles = [
        module.register_forward_hook(partial(check, name)) for name, module in model.named_modules() if name
    ]
    try:
        with torch.no_grad():
            rerun()
    finally:
        for handle in handles:
            handle.remove()
    for name, master in masters.items():
        if not found and master.grad is not None and not finite(master.grad):
            found.append(f"the gradient of {name}")
    return found[0] if found else "the loss itself"


def flops_per_token(model: nn.Module, objective: Objective, batch: TokenBatch) -> int:
    """Floating-point operations of forward and backward pass, counted on `batch` where the model is; no gradient is
    left behind.

    Matrix products count, as the kernels do them (a full T x T product for causal attention); sums do not.
    """
    with FlopCounterMode(display=False) as counter:
        objective(model, batch).sum.backward()
    model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) // batch.tokens_BT.numel()


def finite(x: Tensor) -> bool:
    """True when x holds no nan and no infinity."""
    return bool(torch.isfinite(x).all())


def tensors(output: Any) -> Iterator[Tensor]:
    """Every floating-point tensor of a module's output: a tensor, or a tuple, list or dataclass of them."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from tensors(item)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from tensors(getattr(output, field.name))


def _norm(grads: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
