"""Telemetry reports what it says, names the first bad tensor, and leaves no hook behind."""

import pytest
import torch
from torch import nn

from llm.nn.ffn import swiglu
from llm.nn.init import gpt2
from llm.nn.mixers import gqa
from llm.nn.model import Decoder, ModelConfig
from llm.nn.norm import rmsnorm
from llm.nn.objective import TokenBatch, next_token_loss
from llm.nn.position import rope
from llm.train import telemetry


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=8,
        n_layers=2,
        max_len=16,
        tied_head=True,
        mixer=gqa.Config(n_heads=2, n_kv_heads=2),
        ffn=swiglu.Config(d_ff=12),
        norm=rmsnorm.Config(),
        position=rope.Config(),
        init=gpt2.Config(),
    )
    return Decoder(config, 20)


TOKENS = torch.arange(12).view(2, 6)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_activations_are_the_rms_of_each_block(model):
    outputs = []
    handle = model.blocks[1].register_forward_hook(lambda m, i, out: outputs.append(out[0]))
    with telemetry.activations(model) as sizes:
        model(TOKENS)
    handle.remove()
    assert sorted(sizes) == ["act_rms/blocks.0", "act_rms/blocks.1"]
    assert sizes["act_rms/blocks.1"] == pytest.approx(outputs[0].square().mean().sqrt().item())
    assert hooks(model) == 0
    with telemetry.activations(model, watch=False) as nothing:
        model(TOKENS)
    assert nothing == {}


def test_gradient_norms_by_part(model):
    model(TOKENS).square().sum().backward()
    params = dict(model.named_parameters())
    norms = telemetry.gradient_norms(params)
    assert sorted(norms) == [
        f"grad_norm/{part}" for part in ("blocks.0", "blocks.1", "embedding", "final_norm")
    ]
    block = [param.grad.square().sum() for name, param in params.items() if name.startswith("blocks.0.")]
    assert norms["grad_norm/blocks.0"] == pytest.approx(torch.stack(block).sum().sqrt().item(), rel=1e-5)
    total = sum(value**2 for value in norms.values()) ** 0.5
    assert total == pytest.approx(
        float(torch.nn.utils.get_total_norm([p.grad for p in params.values()])), rel=1e-5
    )


@pytest.mark.parametrize("name", ["blocks.0.mixer.w_o", "blocks.1.ffn.w_gate_up", "final_norm"])
def test_first_bad_output_is_named(model, name):
    bad = model.get_submodule(name).register_forward_hook(lambda m, i, out: out * torch.inf)
    found = telemetry.first_non_finite(model, dict(model.named_parameters()), lambda: model(TOKENS))
    bad.remove()
    assert found == f"the output of {name}"
    assert hooks(model) == 0


def test_a_bad_weight_comes_before_what_it_spoils(model):
    with torch.no_grad():
        model.blocks[1].mixer.w_o.weight[0, 0] = torch.nan
    found = telemetry.first_non_finite(model, dict(model.named_parameters()), lambda: model(TOKENS))
    assert found == "the weight blocks.1.mixer.w_o.weight"


def test_a_bad_gradient_is_named_last_and_else_the_loss(model):
    params = dict(model.named_parameters())
    assert telemetry.first_non_finite(model, params, lambda: model(TOKENS)) == "the loss itself"
    params["final_norm.gain"].grad = torch.full((8,), torch.inf)
    found = telemetry.first_non_finite(model, params, lambda: model(TOKENS))
    assert found == "the gradient of final_norm.gain"


def test_flops_are_those_of_the_matrix_products(model):
    batch = TokenBatch(TOKENS, TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))
    flops = telemetry.flops_per_token(model, next_token_loss, batch)
    weights = sum(
        p.numel() for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks")
    )
    head = model.head.weight.numel()
    attention = 2 * 2 * 2 * 6 * 8  # layers x (scores, values) x 2 operations x T keys x N H numbers
    assert 6 * (weights + head) <= flops <= 6 * (weights + head) + 4 * attention
    assert all(param.grad is None for param in model.parameters())


def test_tensors_are_found_in_tuples_and_dataclasses():
    batch = TokenBatch(torch.ones(1), torch.ones(2), torch.ones(3, dtype=torch.bool), None)
    found = list(
        telemetry.tensors((torch.zeros(1, dtype=torch.long), [batch], None, nn.Parameter(torch.ones(4))))
    )
    assert [len(x) for x in found] == [1, 2, 4]
