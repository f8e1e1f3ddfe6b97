"""Attention whose values are wider or narrower than its keys, with a scale of its own: every form of it."""

import pytest
import torch

from llm.nn.kernels import attention


@pytest.mark.parametrize("width", [4, 10])
@pytest.mark.parametrize("longest", [1024, 8], ids=["matmul", "sdpa"])
@pytest.mark.parametrize("T", [19, 131])
def test_values_of_another_width_in_every_form(monkeypatch, width, longest, T):
    monkeypatch.setattr(attention, "MATMUL_MAX_LEN", longest)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, T, size, dtype=torch.float64, requires_grad=True)
        for heads, size in ((4, 6), (2, 6), (2, width))
    )
    mask = torch.full((T, T), float("-inf"), dtype=torch.float64).triu(1)
    wanted = torch.softmax(
        torch.einsum("bnth,bnsh->bnts", q, k.repeat_interleave(2, 1)) * 0.37 + mask, -1
    ) @ v.repeat_interleave(2, 1)
    out = attention.attend(q, k, v, mask=None, bias_NTS=None, scale=0.37)
    torch.testing.assert_close(out, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(attention.attend_naive(q, k, v, mask, 0.37), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(attention.attend_cached(q, k, v, mask, 0.37), wanted, atol=1e-12, rtol=0)
    weight = torch.randn_like(out)
    for mine, theirs in zip(
        torch.autograd.grad((out * weight).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=0)
