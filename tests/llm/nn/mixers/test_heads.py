import importlib

import pytest
import torch

from llm.nn.mixers import _heads
from llm.nn.mixers.base import Context, Site
from llm.nn.norm import rmsnorm
from tests.laws.mixer_laws import build, rows

KINDS = ["gqa", "sliding_window", "longformer", "moba", "nsa", "dsa"]
SITE = Site(d_model=16, layer=0, n_layers=1, max_len=32, norm=rmsnorm.Config())


def module(kind):
    return importlib.import_module(f"llm.nn.mixers.{kind}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_heads": 3, "n_kv_heads": 2}, r"n_heads \(3\) must be a multiple of n_kv_heads \(2\)"),
        ({"n_heads": 4, "n_kv_heads": 0}, r"n_kv_heads \(0\)"),
        ({"n_heads": 4, "n_kv_heads": 2, "d_head": 0}, r"d_head \(0\) must be positive"),
    ],
)
def test_bad_heads_are_refused(kind, wrong, message):
    with pytest.raises(ValueError, match=message):
        module(kind).Config(**wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_must_divide_the_model(kind):
    config = module(kind).Config(n_heads=5, n_kv_heads=5)
    with pytest.raises(ValueError, match=r"model.mixer: d_model \(16\) must be a multiple of n_heads \(5\)"):
        module(kind).build(config, SITE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rotate", [True, False])
def test_positions_count_where_a_layer_rotates(kind, rotate):
    values = {"n_heads": 4, "n_kv_heads": 2, "rotate": rotate} | ({"index_rope": 0} if kind == "dsa" else {})
    mixer, position = build(kind, values)
    x_BTD = rows(1)
    near, far = (at(mixer, position, x_BTD, torch.arange(x_BTD.shape[1]) * stride) for stride in (1, 2))
    assert torch.equal(near, far) != rotate
    assert bool(mixer.rotates) == rotate


def at(mixer, position, x_BTD, positions):
    angles = position.angles(positions, x_BTD.dtype)
    return mixer(x_BTD, position, Context(positions=positions, dtype=x_BTD.dtype, angles=angles))


def test_rows_of_the_matrix_are_told_to_muon():
    config = _heads.HeadsConfig(n_heads=4, n_kv_heads=2)
    heads = _heads.Heads(config, SITE, pairs=3)
    assert heads.w_qkv.weight.parts == (16, 8, 8, 8, 8, 8, 8)
    assert heads.w_qkv.weight.shape == (64, 16)
