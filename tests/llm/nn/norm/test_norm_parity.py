"""Norms against torch and transformers: outputs, gradients, running statistics."""

import pytest
import torch
from torch import nn

from llm.nn.norm import batchnorm, layernorm, rmsnorm, rmsnorm_unit_offset

D = 24


def rows(*shape):
    return (2 * torch.randn(*shape, D, dtype=torch.float64) + 1).requires_grad_()


def same_with_gradients(ours, theirs, x, names, *, atol, shape=lambda x: x):
    y, expected = ours(x), shape(theirs(shape(x)))
    torch.testing.assert_close(y, expected, atol=atol, rtol=0)
    out = torch.randn_like(y)
    own = [getattr(ours, name) for name in names]
    other = [getattr(theirs, name) for name in names.values()]
    mine = torch.autograd.grad((y * out).sum(), [x, *own])
    for a, b in zip(mine, torch.autograd.grad((expected * out).sum(), [x, *other]), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


def copied(ours, theirs, names):
    with torch.no_grad():
        for name, other in names.items():
            getattr(theirs, other).copy_(torch.randn(D))
            getattr(ours, name).copy_(getattr(theirs, other))
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_equals_torch_with_gradients(bias):
    names = {"gain": "weight", **({"bias": "bias"} if bias else {})}
    ours, theirs = copied(
        layernorm.build(layernorm.Config(bias=bias), D).double(), nn.LayerNorm(D, bias=bias).double(), names
    )
    same_with_gradients(ours, theirs, rows(3, 5), names, atol=1e-12)
    assert len(list(ours.parameters())) == 1 + bias


def test_layernorm_uses_the_biased_variance_and_removes_the_mean():
    norm, x = layernorm.build(layernorm.Config(eps=0.0), D).double(), rows(4)
    y = norm(x)
    torch.testing.assert_close(y.mean(-1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(norm(x + 100), y, atol=1e-9, rtol=0)


@pytest.mark.parametrize("which", ["gemma", "qwen3_next"])
def test_unit_offset_equals_transformers_with_gradients(which):
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm

    theirs = {"gemma": GemmaRMSNorm, "qwen3_next": Qwen3NextRMSNorm}[which](D).double()
    ours = rmsnorm_unit_offset.build(rmsnorm_unit_offset.Config(), D).double()
    ours, theirs = copied(ours, theirs, {"offset": "weight"})
    same_with_gradients(
        ours, theirs, rows(3, 5), {"offset": "weight"}, atol=1e-5
    )  # theirs computes in float32


def test_unit_offset_equals_gemma_in_bf16_bit_for_bit():
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    ours = rmsnorm_unit_offset.build(rmsnorm_unit_offset.Config(), D).bfloat16()
    ours, theirs = copied(ours, GemmaRMSNorm(D).bfloat16(), {"offset": "weight"})
    x = rows(64, 5).bfloat16()
    assert torch.equal(ours(x), theirs(x))


def test_unit_offset_is_rmsnorm_with_a_gain_of_1_plus_w():
    ours = rmsnorm_unit_offset.build(rmsnorm_unit_offset.Config(), D).double()
    plain = rmsnorm.build(rmsnorm.Config(), D).double()
    x = rows(3, 5)
    torch.testing.assert_close(ours(x), plain(x), atol=1e-12, rtol=0)  # both fresh: w = 0, gain = 1
    with torch.no_grad():
        ours.offset.normal_()
        plain.gain.copy_(1 + ours.offset)
    torch.testing.assert_close(ours(x), plain(x), atol=1e-12, rtol=0)


def test_a_small_offset_is_not_lost_in_bf16():
    norm = rmsnorm_unit_offset.build(rmsnorm_unit_offset.Config(), D).bfloat16()
    with torch.no_grad():
        norm.offset.fill_(2**-10)
    assert (1 + norm.offset[0]).item() == 1.0  # what a gain of 1 + w, rounded, would be
    x = torch.full((1, D), 1.0).bfloat16().requires_grad_()
    norm(x).float().sum().backward()
    wide = rmsnorm_unit_offset.UnitOffsetFunction.apply(torch.ones(1, D), norm.offset, 1e-6)
    assert wide[0, 0].item() == pytest.approx(1 + 2**-10, abs=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_batchnorm_equals_torch_in_training_and_after_it(momentum):
    names = {"gain": "weight", "bias": "bias"}
    ours = batchnorm.build(batchnorm.Config(momentum=momentum), D).double()
    ours, theirs = copied(ours, nn.BatchNorm1d(D, momentum=momentum).double(), names)

    def channels_first(x):
        return x.transpose(1, 2)

    for _ in range(3):
        same_with_gradients(ours, theirs, rows(3, 5), names, atol=1e-12, shape=channels_first)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(ours.running_var, theirs.running_var, atol=1e-12, rtol=0)
    before = ours.running_var.clone()
    same_with_gradients(ours.eval(), theirs.eval(), rows(3, 5), names, atol=1e-12, shape=channels_first)
    assert torch.equal(ours.running_var, before)


def test_batchnorm_stores_its_running_statistics_and_refuses_a_single_token():
    norm = batchnorm.build(batchnorm.Config(), D)
    assert set(norm.state_dict()) == {"gain", "bias", "running_mean", "running_var"}
    with pytest.raises(ValueError, match="batchnorm needs more than one token while it is trained"):
        norm(torch.randn(1, 1, D))
    assert norm.eval()(torch.randn(1, 1, D)).isfinite().all()


@pytest.mark.parametrize("momentum", [0.0, 1.5])
def test_batchnorm_refuses_a_momentum_that_is_none(momentum):
    with pytest.raises(ValueError, match=r"momentum \(.*\) must be in \(0, 1\]"):
        batchnorm.Config(momentum=momentum)
