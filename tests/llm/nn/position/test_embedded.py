"""The two kinds that are added to the embedding, against Marian, tensor2tensor's formula and GPT-2."""

import math

import pytest
import torch

from llm.nn.model import Decoder, ModelConfig
from llm.nn.position import learned, sinusoidal
from llm.nn.position.base import Shape
from llm.optim._groups import split
from llm.params import from_dict

SHAPE = Shape(d_model=16, max_len=50)


def test_concatenated_sinusoids_equal_marian():
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    theirs = MarianSinusoidalPositionalEmbedding(50, 16).create_weight()
    ours = sinusoidal.build(sinusoidal.Config(layout="concatenated", scale=1.0), SHAPE)
    torch.testing.assert_close(ours.embed(torch.arange(50)), theirs, atol=1e-7, rtol=0)


def test_interleaved_sinusoids_by_the_formula():
    ours = sinusoidal.build(sinusoidal.Config(scale=0.5), SHAPE).embed(torch.arange(50))
    for p in (0, 1, 7, 49):
        for i in range(8):
            angle = p / 10000 ** (2 * i / 16)
            assert ours[p, 2 * i] == pytest.approx(0.5 * math.sin(angle), abs=1e-7)
            assert ours[p, 2 * i + 1] == pytest.approx(0.5 * math.cos(angle), abs=1e-7)


def test_a_step_of_a_sinusoid_is_a_rotation():
    """What the paper hoped for: PE[p + k] is the same linear map of PE[p] for every p."""
    table = (
        sinusoidal.build(sinusoidal.Config(layout="concatenated", scale=1.0), SHAPE)
        .embed(torch.arange(50))
        .double()
    )
    omega = 10000 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    cos, sin = torch.diag((3 * omega).cos()), torch.diag((3 * omega).sin())
    move = torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])
    torch.testing.assert_close(table[3:], table[:-3] @ move.T, atol=1e-6, rtol=0)


def config(kind, **changes):
    data = {
        "d_model": 16, "n_layers": 1, "max_len": 50, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1}, "ffn": {"kind": "swiglu", "d_ff": 20},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": kind, **changes}, "init": {"kind": "gpt2", "std": 0.5},
    }  # fmt: skip
    return from_dict(ModelConfig, data, "test")


def test_learned_table_has_its_own_start_and_the_optimizer_of_the_rest():
    torch.manual_seed(0)
    model = Decoder(config("learned", std=0.1), 200)
    table = model.position.table_SD
    assert table.shape == (50, 16)
    assert table.std().item() == pytest.approx(0.1, rel=0.1)
    groups = split(model)
    assert (
        "position.table_SD" in groups.rest
    )  # its rows move at every step: not the larger rate of token tables
    assert "position.table_SD" not in groups.tables
    assert table.elementwise  # no decay


def test_learned_table_is_added_as_in_gpt2():
    from transformers import GPT2Config, GPT2Model

    model = Decoder(config("learned"), 200)
    gpt2 = GPT2Model(
        GPT2Config(vocab_size=200, n_positions=50, n_embd=16, n_layer=1, n_head=2, embd_pdrop=0.0)
    )
    with torch.no_grad():
        gpt2.wte.weight.copy_(model.embedding.weight)
        gpt2.wpe.weight.copy_(model.position.table_SD)
    entered = []
    gpt2.h[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    tokens = torch.randint(200, (2, 13))
    gpt2(tokens)
    torch.testing.assert_close(model._enter(tokens, None)[0], entered[0], atol=0, rtol=0)


def test_position_is_added_before_the_first_block_and_only_there():
    model = Decoder(config("sinusoidal"), 200)
    tokens = torch.randint(200, (1, 5))
    x, _ = model._enter(tokens, None)
    torch.testing.assert_close(x - model.embedding(tokens), model.position.embed(torch.arange(5))[None])


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (learned, {"std": -0.1}, r"std \(-0.1\) must not be negative"),
        (sinusoidal, {"base": 0.5}, r"base \(0.5\) must be greater than 1"),
        (sinusoidal, {"scale": 0.0}, r"scale \(0.0\) must be positive"),
    ],
)
def test_configs_refuse(module, values, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**values)


def test_sines_need_an_even_width():
    with pytest.raises(ValueError, match="even d_model, found 15"):
        sinusoidal.build(sinusoidal.Config(), Shape(d_model=15, max_len=4))


def test_there_is_no_place_after_the_last_one():
    for module in (learned, sinusoidal):
        position = module.build(module.Config(), SHAPE)
        assert position.embed(torch.tensor([49])).shape == (1, 16)
        with pytest.raises(ValueError, match="token at place 50, places end at 49; raise model.max_len"):
            position.embed(torch.tensor([[3, 50]]))
