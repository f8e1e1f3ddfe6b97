"""Which optimizer gets which parameter: all of them, each once, tied or not."""

import dataclasses

import pytest
import torch

from llm.nn.ffn import moe, swiglu
from llm.nn.init import gpt2
from llm.nn.mixers import gqa
from llm.nn.model import Decoder, ModelConfig
from llm.nn.norm import rmsnorm
from llm.nn.position import rope
from llm.optim import adamw, muon
from llm.optim._groups import OptimizerParams, build_optimizers, split
from llm.train.precision import MasterWeights

CONFIG = ModelConfig(
    d_model=8,
    n_layers=2,
    max_len=16,
    tied_head=False,
    mixer=gqa.Config(n_heads=2, n_kv_heads=1, qk_norm=True),
    ffn=swiglu.Config(d_ff=12),
    norm=rmsnorm.Config(),
    position=rope.Config(),
    init=gpt2.Config(),
)
OPTIMIZER = OptimizerParams(matrices=muon.Config(lr=0.02), rest=adamw.Config(lr=1e-3))


@pytest.mark.parametrize("tied", [False, True])
def test_partition_is_exact(tied):
    model = Decoder(dataclasses.replace(CONFIG, tied_head=tied), 20)
    groups = split(model)
    names = [name for name, _ in model.named_parameters()]
    assert sorted(groups.matrices + groups.rest) == sorted(names)
    assert len(groups.matrices) == 2 * 4
    assert all(name.startswith("blocks.") for name in groups.matrices)
    assert groups.tables == ("embedding.weight",)
    assert ("head.weight" in groups.rest) is not tied
    optimizers = build_optimizers(groups, dict(model.named_parameters()), OPTIMIZER)
    stepped = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(param) for param in model.parameters())


def test_stacks_of_experts_are_matrices_unless_elementwise():
    model = Decoder(dataclasses.replace(CONFIG, ffn=moe.Config(n_experts=3, d_ff=4)), 20)
    names = {name.removeprefix("blocks.0.ffn.") for name in split(model).matrices if "blocks.0.ffn" in name}
    assert names == {"w_router.weight", "experts.w_gate_up", "experts.w_down"}
    model.blocks[0].ffn.experts.w_down.elementwise = True
    assert "blocks.0.ffn.experts.w_down" in split(model).rest
    masters = MasterWeights(model, "bf16").masters
    assert masters["blocks.0.ffn.experts.w_gate_up"].parts == (4, 4)
    build_optimizers(split(model), masters, OPTIMIZER)


@pytest.mark.parametrize("decay_embeddings", [False, True])
def test_only_matrices_decay_and_tables_on_demand(decay_embeddings):
    model = Decoder(CONFIG, 20)
    params = dict(model.named_parameters())
    config = dataclasses.replace(OPTIMIZER, decay_embeddings=decay_embeddings)
    decay = {
        id(param): group["weight_decay"]
        for optimizer in build_optimizers(split(model), params, config)
        for group in optimizer.param_groups
        for param in group["params"]
    }
    assert decay[id(params["blocks.0.mixer.w_o.weight"])] == 0.1
    assert decay[id(params["head.weight"])] == 0.1
    assert decay[id(params["final_norm.gain"])] == 0.0
    assert decay[id(params["blocks.1.mixer.q_norm.gain"])] == 0.0
    assert decay[id(params["embedding.weight"])] == (0.1 if decay_embeddings else 0.0)


def test_frozen_parameters_belong_to_nobody():
    model = Decoder(CONFIG, 20)
    for name, param in model.named_parameters():
        param.requires_grad_("w_down" in name)
    groups = split(model)
    assert groups.rest == ()
    assert groups.matrices == ("blocks.0.ffn.w_down.weight", "blocks.1.ffn.w_down.weight")
    [only] = build_optimizers(groups, dict(model.named_parameters()), OPTIMIZER)
    assert isinstance(only, muon.Muon)


def test_nothing_trainable_is_an_error():
    model = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizers(split(model), {}, OPTIMIZER)


@pytest.mark.parametrize("tied", [False, True])
def test_tables_with_an_optimizer_of_their_own_are_stepped_by_no_other(tied):
    model = Decoder(dataclasses.replace(CONFIG, tied_head=tied), 20)
    params = dict(model.named_parameters())
    config = dataclasses.replace(OPTIMIZER, tables=adamw.Config(lr=0.5))
    optimizers = build_optimizers(split(model), params, config)
    owners = [id(param) for one in optimizers for group in one.param_groups for param in group["params"]]
    assert sorted(owners) == sorted(id(param) for param in params.values())
    table = [one for one in optimizers if one.param_groups[0]["lr"] == 0.5]
    assert [id(p) for one in table for g in one.param_groups for p in g["params"]] == [
        id(model.embedding.weight)
    ]
