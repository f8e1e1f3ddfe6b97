"""What tests of mixers share: reference files of other libraries, a watch over memory, two ways to one result."""

import importlib.util
from importlib.metadata import distribution

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def fla(path):
    """One reference file of flash-linear-attention, `ops/…/naive.py`: importing the package would need triton."""
    file = distribution("fla-core").locate_file(f"fla/{path}")
    spec = importlib.util.spec_from_file_location(f"fla_{path.replace('/', '_')[:-3]}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def assert_same(ours, theirs, inputs, *, atol):
    """Equal values, and equal gradients of a random weighting of them; errors in units of the largest number."""
    weight = draw(*ours.shape, seed=99).detach()
    mine = torch.autograd.grad((ours * weight).sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad((theirs * weight).sum(), inputs, retain_graph=True)
    for a, b in zip((ours, *mine), (theirs, *wanted), strict=True):
        unit = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a / unit, b / unit, atol=atol, rtol=0, check_dtype=False)
