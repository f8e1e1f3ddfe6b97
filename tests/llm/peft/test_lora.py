"""LoRA equals peft: the same factors give the same outputs, gradients and merged weights."""

import math

import pytest
import torch
from torch import nn

from llm.peft.lora import Config, LoRA, LoRALinear


def _pair(rank_stabilized: bool) -> tuple[LoRALinear, nn.Module]:
    """Our layer and peft's around equal weights, with equal random factors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 20))
    ours = LoRA(Config(rank=4, alpha=6.0, targets=("0",), rank_stabilized=rank_stabilized)).wrap(
        nn.Linear(12, 20)
    )
    ours.linear.load_state_dict(base[0].state_dict())
    ours.requires_grad_(True)
    ours.linear.requires_grad_(False)
    settings = LoraConfig(
        r=4, lora_alpha=6, target_modules=["0"], lora_dropout=0.0, use_rslora=rank_stabilized
    )
    theirs = get_peft_model(base, settings).base_model.model[0]
    with torch.no_grad():
        ours.lora_b.normal_()
        theirs.lora_A["default"].weight.copy_(ours.lora_a)
        theirs.lora_B["default"].weight.copy_(ours.lora_b)
    return ours, theirs


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_forward_gradients_and_merge_equal_peft(rank_stabilized: bool) -> None:
    ours, theirs = _pair(rank_stabilized)
    x = torch.randn(3, 7, 12)
    y, expected = ours(x), theirs(x)
    assert torch.allclose(y, expected, atol=1e-6)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(ours.lora_a.grad, theirs.lora_A["default"].weight.grad, rtol=1e-4)  # type: ignore[arg-type]
    assert torch.allclose(ours.lora_b.grad, theirs.lora_B["default"].weight.grad, rtol=1e-4)  # type: ignore[arg-type]
    theirs.merge()
    merged = LoRA(ours.config).merge(ours)
    assert torch.allclose(merged.weight, theirs.get_base_layer().weight, atol=2e-6)
    assert torch.allclose(merged(x), y, atol=1e-5)


def test_factors_start_as_in_peft() -> None:
    layer = LoRA(Config(rank=64, alpha=64.0, targets=("x",))).wrap(nn.Linear(100, 30))
    bound = 1 / math.sqrt(100)
    assert layer.lora_b.abs().max() == 0
    assert 0.95 * bound < layer.lora_a.abs().max() <= bound
    assert abs(float(layer.lora_a.detach().std()) - bound / math.sqrt(3)) < 0.003


def test_dropout_touches_the_low_rank_branch_only_and_only_in_training() -> None:
    layer = LoRA(Config(rank=2, alpha=2.0, targets=("x",), dropout=0.5)).wrap(nn.Linear(8, 8))
    x = torch.randn(4, 8)
    assert torch.equal(layer.train()(x), layer.linear(x))  # B = 0: whatever is dropped, nothing is added
    nn.init.ones_(layer.lora_b)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_weight_is_what_merging_makes_and_carries_gradients() -> None:
    """The training loss multiplies with `head.weight` itself, so an adapted head must answer for it."""
    layer = LoRA(Config(rank=2, alpha=4.0, targets=("x",))).wrap(nn.Linear(6, 5, bias=False))
    nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 6)
    assert torch.allclose(x @ layer.weight.t(), layer(x), atol=1e-6)
    layer.weight.sum().backward()
    assert layer.lora_a.grad is not None
    assert layer.lora_a.grad.abs().max() > 0
    assert torch.equal(layer.weight, LoRA(layer.config).merge(layer).weight)


@pytest.mark.parametrize(("bad", "message"), [({"rank": 0}, "rank"), ({"dropout": 1.0}, "dropout")])
def test_impossible_configs_are_named(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**{"rank": 1, "alpha": 1.0, "targets": ("x",), **bad})  # type: ignore[arg-type]
