"""Laws of every adapter: nothing changes at first, merging changes nothing, only the adapter trains."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.peft.base import AdaptedLinear, Adapter, adapted

FAMILY = "llm.peft"
TARGETS = ["w_qkv", "w_o"]
CASES: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"rank": 3, "alpha": 6.0, "targets": TARGETS},
        {"rank": 2, "alpha": 1.0, "targets": [*TARGETS, "head"], "dropout": 0.3, "rank_stabilized": True},
    ],
    "none": [{}],
}


def _cases() -> Iterator[Any]:
    for kind in registry.kinds(FAMILY):
        for number, fields in enumerate(CASES[kind]):  # a kind without a case fails here
            config = from_dict(registry.module(FAMILY, kind).Config, fields, kind)
            yield pytest.param(config, id=f"{kind}-{number}")


def _model() -> Decoder:
    config = {
        "d_model": 16,
        "n_layers": 2,
        "max_len": 16,
        "tied_head": False,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1},
        "ffn": {"kind": "swiglu", "d_ff": 24},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.2},
    }
    torch.manual_seed(0)
    return Decoder(from_dict(ModelConfig, config, "model"), 20).double()


def _tokens() -> Tensor:
    return torch.randint(0, 20, (2, 11), generator=torch.Generator().manual_seed(1))


def _train(model: nn.Module, adapter: Adapter, steps: int = 3) -> None:
    """A few large steps, so that every trainable number has moved far from where it began."""
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.1)
    for step in range(steps):
        adapter.on_step(step)
        logits = model(_tokens())
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), _tokens()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("config", _cases())
def test_identity_at_initialisation(config: Any) -> None:
    model = _model().eval()
    before = model(_tokens())
    names = registry.build(config).attach(model)
    assert len(names) == len(list(adapted(model)))
    assert torch.allclose(model(_tokens()), before, atol=1e-12)


@pytest.mark.parametrize("config", _cases())
def test_merged_equals_unmerged(config: Any) -> None:
    model = _model()
    adapter = registry.build(config)
    names = adapter.attach(model)
    start = model(_tokens()).detach()
    _train(model, adapter)
    wrapped = model(_tokens()).detach()
    assert (wrapped - start).abs().max() > 0.1
    assert adapter.merge_into(model) == names
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    assert torch.allclose(model(_tokens()), wrapped, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in _model().named_parameters()}


@pytest.mark.parametrize("config", _cases())
def test_only_adapter_parameters_train(config: Any) -> None:
    model = _model()
    original = {name: tensor.clone() for name, tensor in model.named_parameters()}
    adapter = registry.build(config)
    names = adapter.attach(model)
    _train(model, adapter)
    for name, parameter in model.named_parameters():
        base_name = name.replace(".linear.", ".")
        if not names:  # full fine-tuning
            assert parameter.requires_grad
            assert not torch.equal(parameter, original[name])
        elif base_name in original:
            assert not parameter.requires_grad
            assert parameter.grad is None
            assert torch.equal(parameter, original[base_name])
        else:
            assert parameter.requires_grad
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("config", _cases())
def test_trains_fewer_parameters_than_the_model_has(config: Any) -> None:
    model = _model()
    total = sum(parameter.numel() for parameter in model.parameters())
    names = registry.build(config).attach(model)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == total if not names else 0 < trainable < total / 2
