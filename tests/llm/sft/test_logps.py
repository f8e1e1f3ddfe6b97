"""Chunked log-probabilities against log_softmax, with gradients."""

import pytest
import torch

from llm.sft import logps


@pytest.mark.parametrize("chunk", [3, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_entropy_and_gradients_equal_the_plain_form(monkeypatch, chunk, temperature):
    monkeypatch.setattr(logps, "CHUNK", chunk)
    torch.manual_seed(0)
    h = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets, pull = torch.randint(0, 11, (8,)), torch.randn(8, dtype=torch.float64)
    logp, entropy = logps.target_logps(h, weight, targets, temperature)
    plain = torch.log_softmax(h @ weight.T / temperature, dim=-1)
    torch.testing.assert_close(logp, plain.gather(1, targets[:, None]).squeeze(1))
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))
    assert not entropy.requires_grad
    ours = torch.autograd.grad((logp * pull).sum(), (h, weight))
    theirs = torch.autograd.grad((plain.gather(1, targets[:, None]).squeeze(1) * pull).sum(), (h, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
