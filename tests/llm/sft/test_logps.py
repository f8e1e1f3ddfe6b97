"""Log-probabilities in chunks: the numbers and gradients of log_softmax, whatever the chunk."""

import pytest
import torch
from torch import Tensor

from llm.sft import logps
from llm.sft.logps import target_logps


def _inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    h = torch.randn(23, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(50, 8, dtype=dtype, requires_grad=True)
    return h, weight, torch.randint(0, 50, (23,))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [5, 23, 256])
def test_values_and_gradients_equal_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float
) -> None:
    monkeypatch.setattr(logps, "CHUNK", chunk)
    h, weight, targets = _inputs(torch.float64)
    plain = torch.log_softmax(h @ weight.t() / temperature, -1)
    expected = plain.gather(1, targets[:, None]).squeeze(1)
    ours, entropy = target_logps(h, weight, targets, temperature)
    assert torch.allclose(ours, expected, atol=1e-12)
    assert torch.allclose(entropy, -(plain.exp() * plain).sum(-1), atol=1e-12)
    assert not entropy.requires_grad

    upstream = torch.randn(23, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (h, weight), upstream),
        torch.autograd.grad(expected, (h, weight), upstream),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_bfloat16_keeps_float32_where_it_matters() -> None:
    h, weight, targets = _inputs(torch.float32)
    low_h, low_weight = h.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()
    ours, _ = target_logps(low_h, low_weight, targets)
    assert ours.dtype == torch.float32
    exact, _ = target_logps(low_h.float(), low_weight.float(), targets)
    assert torch.allclose(ours, exact, atol=0.1)
    ours.sum().backward()
    assert low_h.grad is not None
    assert low_weight.grad is not None
    assert low_weight.grad.dtype == torch.bfloat16


def test_huge_logits_stay_finite() -> None:
    h, weight, targets = _inputs(torch.float32)
    ours, entropy = target_logps(h * 1e4, weight, targets)
    assert torch.isfinite(ours).all()
    assert (entropy >= -1e-2).all()
