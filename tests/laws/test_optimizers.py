"""Laws of optimizers: equal to torch's, resumable, convergent, decoupled decay, states in float32."""

import copy

import pytest
import torch
from torch import nn

from llm import registry
from llm.optim import adamw, muon

KINDS = registry.kinds("llm.optim")
SHAPES = [(12, 8), (8, 12), (8, 8), (12, 8)]


def make_params(shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_grads(params, step):
    for index, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + index)
        param.grad = torch.randn(param.shape, generator=generator)


def build(kind, params, **fields):
    config = registry.module("llm.optim", kind).Config(**{"lr": 0.02, **fields})
    return registry.build(config, params)


def oracle(config, params):
    """The optimizer of torch that a config describes."""
    if isinstance(config, adamw.Config):
        betas = (config.beta1, config.beta2)
        return torch.optim.AdamW(
            params, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay
        )
    adjust = {"original": "original", "match_rms": "match_rms_adamw"}[config.scale]
    return torch.optim.Muon(
        params,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.ns_steps,
        weight_decay=config.weight_decay,
        adjust_lr_fn=adjust,
    )


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize(
    "config",
    [
        adamw.Config(lr=3e-4),
        adamw.Config(lr=0.5, weight_decay=0.5, beta1=0.5, beta2=0.999, eps=1e-3),
        muon.Config(lr=0.02),
        muon.Config(lr=0.5, weight_decay=0.5, nesterov=False, momentum=0.5),
        muon.Config(lr=0.02, scale="match_rms", ns_steps=3),
    ],
    ids=repr,
)
def test_equals_torch(config, steps):
    ours, theirs = make_params(), make_params()
    optimizer, reference = registry.build(config, ours), oracle(config, theirs)
    for step in range(steps):
        give_grads(ours, step)
        give_grads(theirs, step)
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch_under_a_schedule(kind):
    ours, theirs = make_params(), make_params()
    optimizer = build(kind, ours, weight_decay=0.3)
    reference = oracle(optimizer.config, theirs)
    for step in range(10):
        factor = 1 / (1 + step)
        optimizer.schedule(factor)
        for group in reference.param_groups:
            group["lr"] = 0.02 * factor
        give_grads(ours, step)
        give_grads(theirs, step)
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_changes_nothing(kind):
    whole, cut = make_params(), make_params()
    optimizer, first = build(kind, whole), build(kind, cut)
    for step in range(6):
        give_grads(whole, step)
        optimizer.step()
    for step in range(3):
        give_grads(cut, step)
        first.step()
    resumed_params = make_params(seed=1)
    with torch.no_grad():
        for new, old in zip(resumed_params, cut, strict=True):
            new.copy_(old)
    resumed = build(kind, resumed_params)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(3, 6):
        give_grads(resumed_params, step)
        resumed.step()
    for a, b in zip(whole, resumed_params, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_reaches_the_minimum_of_a_quadratic(kind):
    [param] = make_params([(6, 4)])
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(7))
    optimizer = build(kind, [param], lr=0.1, weight_decay=0.0)
    for step in range(300):
        param.grad = param.detach() - target
        optimizer.schedule(1 - step / 300)
        optimizer.step()
    torch.testing.assert_close(param.detach(), target, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_decay_follows_the_scheduled_rate_and_needs_no_gradient_direction(kind):
    params = make_params()
    before = [param.detach().clone() for param in params]
    optimizer = build(kind, params, lr=0.1, weight_decay=0.5)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.schedule(0.4)
    optimizer.step()
    for param, old in zip(params, before, strict=True):
        torch.testing.assert_close(param.detach(), old * (1 - 0.4 * 0.1 * 0.5))
    optimizer.schedule(0.0)
    frozen = [param.detach().clone() for param in params]
    give_grads(params, 0)
    optimizer.step()
    for param, old in zip(params, frozen, strict=True):
        assert torch.equal(param.detach(), old)


@pytest.mark.parametrize("kind", KINDS)
def test_undecayed_parameters_do_not_shrink(kind):
    params = make_params()
    config = registry.module("llm.optim", kind).Config(lr=0.1, weight_decay=0.5)
    optimizer = registry.build(config, params, undecayed=[params[1]])
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert torch.equal(params[1].detach(), before[1])
    assert not torch.equal(params[0].detach(), before[0])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_gradient_are_left_alone(kind):
    params = make_params()
    optimizer = build(kind, params)
    give_grads(params, 0)
    params[2].grad = None
    before = params[2].detach().clone()
    optimizer.step()
    assert torch.equal(params[2].detach(), before)
    give_grads(params, 1)
    optimizer.step()  # its own first step, while the others take their second
    assert not torch.equal(params[2].detach(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_float32(kind):
    params = make_params()
    optimizer = build(kind, params)
    give_grads(params, 0)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [value for value in states if isinstance(value, torch.Tensor)]
    assert len(tensors) >= len(params)
    assert all(value.dtype == torch.float32 for value in tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["lr", "weight_decay"])
def test_negative_rates_are_refused(kind, field):
    config = registry.module("llm.optim", kind).Config
    with pytest.raises(ValueError, match=field):
        config(**{"lr": 0.1, field: -1.0})
