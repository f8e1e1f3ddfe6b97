"""Dense feed-forward layers against torch and transformers: outputs and gradients."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from llm.nn.activation import ACTIVATIONS, relu2
from llm.nn.ffn import alternate, geglu, mlp, moe, none, swiglu
from llm.nn.ffn import relu2 as relu2_ffn
from llm.nn.mixers.base import Site
from llm.nn.norm import rmsnorm

D = 24
SITE = Site(d_model=D, layer=0, n_layers=4, max_len=8, norm=rmsnorm.Config())


def rows():
    return torch.randn(2, 5, D, dtype=torch.float64, requires_grad=True)


def same_with_gradients(ours, theirs, x, names, *, atol):
    """names: their parameter -> ours, or a function of ours."""
    weights = torch.randn(*x.shape, dtype=x.dtype)
    theirs(x).mul(weights).sum().backward()
    d_x, x.grad = x.grad, None
    y = ours(x).y_BTD
    torch.testing.assert_close(y, theirs(x), atol=atol, rtol=0)
    y.mul(weights).sum().backward()
    torch.testing.assert_close(x.grad, d_x, atol=atol, rtol=0)
    own = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        grad = names[name](own) if callable(names[name]) else own[names[name]].grad
        torch.testing.assert_close(grad, parameter.grad, atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("kind", "theirs"), [("gelu", "gelu"), ("gelu_tanh", "gelu_new"), ("relu", "relu"), ("silu", "silu")]
)
def test_mlp_with_biases_equals_gpt2(kind, theirs):
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    torch.manual_seed(0)
    ours = mlp.build(mlp.Config(activation=kind, bias=True), SITE).double()
    config = GPT2Config(n_embd=D, activation_function=theirs, resid_pdrop=0.0)
    reference = GPT2MLP(4 * D, config).double()
    state = ours.state_dict()
    reference.load_state_dict(
        {
            "c_fc.weight": state["w_up.weight"].T, "c_fc.bias": torch.randn(4 * D),
            "c_proj.weight": state["w_down.weight"].T, "c_proj.bias": torch.randn(D),
        }
    )  # fmt: skip
    with torch.no_grad():
        ours.w_up.bias.copy_(reference.c_fc.bias)
        ours.w_down.bias.copy_(reference.c_proj.bias)
    names = {
        "c_fc.weight": lambda own: own["w_up.weight"].grad.T, "c_fc.bias": "w_up.bias",
        "c_proj.weight": lambda own: own["w_down.weight"].grad.T, "c_proj.bias": "w_down.bias",
    }  # fmt: skip
    same_with_gradients(ours, reference, rows(), names, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "act"), [("swiglu", "silu"), ("tanh", "gelu_pytorch_tanh"), ("erf", "gelu")]
)
def test_gated_layers_equal_llama_and_gemma(kind, act):
    from transformers import GemmaConfig, LlamaConfig
    from transformers.models.gemma.modeling_gemma import GemmaMLP
    from transformers.models.llama.modeling_llama import LlamaMLP

    torch.manual_seed(0)
    if kind == "tanh":
        config = GemmaConfig(hidden_size=D, intermediate_size=30, hidden_act=act)
        reference = GemmaMLP(config)
    else:
        config = LlamaConfig(hidden_size=D, intermediate_size=30, hidden_act=act, num_attention_heads=4)
        reference = LlamaMLP(config)
    if kind == "swiglu":
        ours = swiglu.build(swiglu.Config(d_ff=30), SITE).double()
    else:
        ours = geglu.build(geglu.Config(d_ff=30, gelu=kind), SITE).double()
    gate, up = ours.w_gate_up.weight.detach().chunk(2)
    reference = reference.double()
    reference.load_state_dict(
        {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": ours.w_down.weight.detach()}
    )
    names = {
        "gate_proj.weight": lambda own: own["w_gate_up.weight"].grad[:30],
        "up_proj.weight": lambda own: own["w_gate_up.weight"].grad[30:],
        "down_proj.weight": "w_down.weight",
    }
    same_with_gradients(ours, reference, rows(), names, atol=1e-12)


def test_the_gate_is_the_half_that_is_bent():
    layer = geglu.build(geglu.Config(d_ff=30), SITE)
    with torch.no_grad():
        layer.w_gate_up.weight[:30].zero_()  # gelu(0) = 0 closes everything, up(0) = 0 would too
        assert layer(torch.randn(1, 2, D)).y_BTD.abs().max() == 0
        layer.w_gate_up.weight[:30].fill_(100.0)
        x = torch.ones(1, 1, D)
        open_gate = layer(x).y_BTD
        torch.testing.assert_close(
            open_gate, layer.w_down(2400 * layer.w_gate_up(x)[..., 30:]), rtol=1e-4, atol=1e-2
        )


def test_squared_relu_equals_its_equation():
    ours, x = relu2_ffn.build(relu2_ffn.Config(d_ff=30), SITE).double(), rows()
    expected = F.relu(x @ ours.w_up.weight.T) ** 2 @ ours.w_down.weight.T
    torch.testing.assert_close(ours(x).y_BTD, expected, atol=1e-12, rtol=0)
    z = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(relu2(z).sum(), z)
    torch.testing.assert_close(slope, 2 * F.relu(z.detach()))


def test_every_activation_equals_torch():
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64, requires_grad=True)
    torchs = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "relu": F.relu,
    }
    assert ACTIVATIONS.keys() == torchs.keys()
    for kind, ours in ACTIVATIONS.items():
        torch.testing.assert_close(ours(x), torchs[kind](x), atol=1e-12, rtol=0)
        away = x.detach()[x.detach() != 0].requires_grad_()
        [slope] = torch.autograd.grad(ours(away).sum(), away)
        [wanted] = torch.autograd.grad(torchs[kind](away).sum(), away)
        torch.testing.assert_close(slope, wanted, atol=1e-12, rtol=0)


def test_default_widths_have_the_same_number_of_parameters_within_a_twentieth():
    site = dataclasses.replace(SITE, d_model=256)
    sizes = {
        module.__name__: sum(p.numel() for p in module.build(module.Config(), site).parameters())
        for module in (mlp, swiglu, geglu, relu2_ffn)
    }
    assert max(sizes.values()) < 1.05 * min(sizes.values())
    assert sum(p.numel() for p in none.build(none.Config(), site).parameters()) == 0


def alternating(layers, **fields):
    config = alternate.Config(first=mlp.Config(d_ff=8), second=moe.Config(d_ff=8), **fields)
    kinds = [
        type(alternate.build(config, dataclasses.replace(SITE, layer=i))).__name__ for i in range(layers)
    ]
    return "".join("d" if kind == "MLP" else "e" for kind in kinds)


def test_parts_take_turns():
    assert alternating(5) == "deded"
    assert alternating(7, pattern=("second", "first", "first")) == "eddedde"
    assert alternating(5, pattern=("second",), leading_first=2) == "ddeee"
    assert alternating(6, leading_first=1) == "ddeded"


@pytest.mark.parametrize("module", [mlp, swiglu, geglu, relu2_ffn])
def test_a_width_of_nothing_is_refused(module):
    with pytest.raises(ValueError, match=r"d_ff \(0\) must be positive"):
        module.Config(d_ff=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": ()}, "must name at least one part"),
        ({"leading_first": -1}, r"leading_first \(-1\) must be at least 0"),
        (
            {"second": alternate.Config(first=mlp.Config(), second=mlp.Config())},
            "second .* must not take turns",
        ),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        alternate.Config(**{"first": mlp.Config(), "second": mlp.Config(), **fields})
