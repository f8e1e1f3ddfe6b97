"""Laws of the family llm.nn.init: the size of every weight, once, whatever holds it."""

import math

import pytest
import torch
from torch import nn

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict

WIDE, N_LAYERS = 192, 8
TINY = {
    "gpt2": [{}, {"std": 0.1, "residual_scale": 0.5}],
    "kaiming": [
        {}, {"distribution": "uniform", "nonlinearity": "linear", "depth_scale": True},
        {"nonlinearity": "tanh"}, {"nonlinearity": "leaky_relu", "slope": 0.5, "embedding_std": 0.1},
    ],
    "xavier": [{}, {"distribution": "normal", "gain": 2.0, "depth_scale": True}],
}  # fmt: skip
CASES = [(kind, index) for kind in TINY for index in range(len(TINY[kind]))]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")


def config_of(case):
    kind, index = case
    return from_dict(registry.module("llm.nn.init", kind).Config, TINY[kind][index], "test")


class Everything(nn.Module):
    """One of each kind of weight an init meets."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(400, WIDE)
        self.w_in = nn.Linear(WIDE, 300)
        self.w_fused = nn.Linear(WIDE, 300, bias=False)
        self.w_fused.weight.parts = (100, 200)
        self.w_o = nn.Linear(300, WIDE, bias=False)
        self.w_up = nn.Parameter(torch.full((3, 300, WIDE), 7.0))
        self.w_up.parts = (150, 150)
        self.w_down = nn.Parameter(torch.full((3, WIDE, 150), 7.0))
        self.filters = nn.Parameter(torch.full((5, 1, 4), 7.0))
        self.filters.elementwise = True
        self.gain = nn.Parameter(torch.ones(WIDE))

    def finish_init(self):
        self.finished = float(self.w_in.weight.std())


def filled(case, seed=0):
    model = Everything()
    torch.manual_seed(seed)
    registry.build(config_of(case)).apply(model, N_LAYERS)
    return model.requires_grad_(False)


def stated_std(case, rows, columns, *, residual=False):
    """The formula of the page."""
    kind, config = case[0], config_of(case)
    if kind == "gpt2":
        return config.std * (config.residual_scale / math.sqrt(2 * N_LAYERS) if residual else 1)
    if kind == "kaiming":
        slope = config.slope if config.nonlinearity == "leaky_relu" else None
        std = nn.init.calculate_gain(config.nonlinearity, slope) / math.sqrt(columns)
    else:
        std = config.gain * math.sqrt(2 / (rows + columns))
    return std / math.sqrt(2 * N_LAYERS) if residual and config.depth_scale else std


def test_every_kind_is_covered():
    assert sorted(TINY) == registry.kinds("llm.nn.init")


@EVERY_CASE
def test_every_matrix_has_the_stated_size(case):
    model = filled(case)
    close = {"rel": 0.02}
    assert model.w_in.weight.std().item() == pytest.approx(stated_std(case, 300, WIDE), **close)
    for part, rows in zip(model.w_fused.weight.split((100, 200)), (100, 200), strict=True):
        assert part.std().item() == pytest.approx(stated_std(case, rows, WIDE), **close)
    residual = stated_std(case, WIDE, 300, residual=True)
    assert model.w_o.weight.std().item() == pytest.approx(residual, **close)
    for expert in range(3):
        for part in model.w_up[expert].split(150):
            assert part.std().item() == pytest.approx(stated_std(case, 150, WIDE), **close)
        wanted = stated_std(case, WIDE, 150, residual=True)
        assert model.w_down[expert].std().item() == pytest.approx(wanted, **close)
    stated = getattr(config_of(case), "embedding_std", getattr(config_of(case), "std", None))
    assert model.embedding.weight.std().item() == pytest.approx(stated, **close)


@EVERY_CASE
def test_means_are_zero_and_experts_differ(case):
    model = filled(case)
    for weight in (model.w_in.weight, model.w_o.weight, model.w_up, model.embedding.weight):
        assert abs(float(weight.mean())) < 4 * float(weight.std()) / math.sqrt(weight.numel())
    assert not torch.equal(model.w_up[0], model.w_up[1])


@EVERY_CASE
def test_what_is_no_matrix_is_left_alone_and_own_rules_come_last(case):
    model = filled(case)
    assert model.filters.unique().tolist() == [7.0]
    assert model.gain.unique().tolist() == [1.0]
    assert model.w_in.bias.unique().tolist() == [0.0]
    assert model.finished == model.w_in.weight.std().item()


@EVERY_CASE
def test_a_seed_decides_everything(case):
    one, same, other = filled(case), filled(case), filled(case, seed=1)
    for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.ndim == 1 or name == "filters" or not torch.equal(a, c), name


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_numbers_are_those_of_torch(distribution):
    """Same generator, same formula: equal tensors."""
    kaiming, xavier = (registry.module("llm.nn.init", kind) for kind in ("kaiming", "xavier"))
    theirs = torch.empty(60, 44)
    pairs = [
        (
            kaiming.Config(distribution=distribution),
            getattr(nn.init, f"kaiming_{distribution}_"),
            {"nonlinearity": "relu"},
        ),
        (
            kaiming.Config(distribution=distribution, nonlinearity="leaky_relu", slope=math.sqrt(5)),
            getattr(nn.init, f"kaiming_{distribution}_"),
            {"a": math.sqrt(5)},
        ),
        (
            xavier.Config(distribution=distribution, gain=1.7),
            getattr(nn.init, f"xavier_{distribution}_"),
            {"gain": 1.7},
        ),
    ]
    for config, reference, fields in pairs:
        ours = torch.empty(60, 44)
        torch.manual_seed(3)
        registry.build(config).matrix(ours, parts=(60,), residual=False, n_layers=4)
        torch.manual_seed(3)
        reference(theirs, **fields)
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)


def test_gpt2_is_that_of_transformers():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    reference = GPT2LMHeadModel(
        GPT2Config(n_embd=WIDE, n_layer=N_LAYERS, n_head=2, vocab_size=400, n_positions=64)
    )
    state = reference.state_dict()
    case = ("gpt2", 0)
    for layer in (0, N_LAYERS - 1):
        block = f"transformer.h.{layer}."
        for name in ("attn.c_proj", "mlp.c_proj"):
            expected = stated_std(case, 1, 1, residual=True)
            assert float(state[f"{block}{name}.weight"].std()) == pytest.approx(expected, rel=0.02)
        for name in ("attn.c_attn", "mlp.c_fc"):
            assert float(state[f"{block}{name}.weight"].std()) == pytest.approx(
                stated_std(case, 1, 1), rel=0.02
            )


def stream_sizes(init, n_layers=16):
    """Root mean square of the residual stream after the first and the last block of a fresh model."""
    data = {
        "d_model": 64, "n_layers": n_layers, "max_len": 32, "tied_head": False,
        "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2}, "ffn": {"kind": "swiglu", "d_ff": 160},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": init,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(from_dict(ModelConfig, data, "test"), 100)
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda _m, _i, out: sizes.append(float(out[0].detach().square().mean().sqrt()))
        )
    model(torch.randint(100, (4, 32)))
    return sizes[0], sizes[-1]


@pytest.mark.parametrize("kind", ["kaiming", "xavier"])
def test_the_stream_grows_less_with_depth_scaling(kind):
    first, last = stream_sizes(
        {"kind": kind, "gain": 1.0} if kind == "xavier" else {"kind": kind, "slope": 0.0}
    )
    _, scaled = stream_sizes({"kind": kind, "depth_scale": True})
    assert last > 2 * first
    assert scaled < 0.4 * last
