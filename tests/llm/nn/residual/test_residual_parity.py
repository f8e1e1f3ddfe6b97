"""Where the norms stand: every residual kind against a textbook line and against a layer of torch or transformers
whose attention and MLP are replaced by ours."""

import pytest
import torch
from torch import nn

from llm import registry
from llm.nn.ffn import moe, none, swiglu
from llm.nn.mixers import gqa
from llm.nn.mixers.base import Context, Site, next_step
from llm.nn.model import Decoder, ModelConfig
from llm.nn.norm import layernorm, rmsnorm, rmsnorm_unit_offset
from llm.nn.position import rope
from llm.nn.position.base import Shape
from llm.params import from_dict

D, B, T, N_LAYERS = 24, 2, 6, 3
POSITION = rope.build(rope.Config(), Shape(d_model=D, max_len=16, widths=[12]))
KINDS = registry.kinds("llm.nn.residual")


DENSE = swiglu.Config(d_ff=30)


def block(kind, *, norm=rmsnorm, ffn=DENSE, **fields):
    torch.manual_seed(0)
    site = Site(d_model=D, layer=0, n_layers=N_LAYERS, max_len=16, norm=norm.Config())
    config = registry.module("llm.nn.residual", kind).Config(**fields)
    made = registry.build(config, site, mixer=gqa.Config(n_heads=2, n_kv_heads=1), ffn=ffn).double()
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.5 * torch.randn_like(parameter)  # equal gains would hide a swapped norm
    return made


def rows(requires_grad=True):
    x = torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (2 * x + 0.5).requires_grad_(requires_grad)


def context():
    positions = torch.arange(T)
    angles = POSITION.angles(positions, torch.float64)
    return Context(positions=positions, dtype=torch.float64, angles=angles)


def attention(made):
    return lambda h: made.mixer(h, POSITION, context())


def feed(made):
    return lambda h: made.ffn(h).y_BTD


TEXTBOOK = {
    "pre_norm": lambda x, f, n1, n2: x + f(n1(x)),
    "post_norm": lambda x, f, n1, n2: n1(x + f(x)),
    "output_norm": lambda x, f, n1, n2: x + n1(f(x)),
    "sandwich": lambda x, f, n1, n2: x + n2(f(n1(x))),
    "scaled": lambda x, f, n1, n2: (2 * N_LAYERS) ** 0.25 * n1(x) + f(n1(x)),
}


def test_every_kind_is_covered():
    assert sorted(TEXTBOOK) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_textbook_line_with_gradients(kind):
    made, x = block(kind), rows()
    outer = [getattr(made, f"{which}_out_norm", None) for which in ("mixer", "ffn")]
    h = TEXTBOOK[kind](x, attention(made), made.mixer_norm, outer[0])
    expected = TEXTBOOK[kind](h, feed(made), made.ffn_norm, outer[1])
    y, aux = made(x, POSITION, context())
    assert aux is None
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    out = torch.randn_like(y)
    wanted = torch.autograd.grad((expected * out).sum(), [x, *made.parameters()])
    for a, b in zip(torch.autograd.grad((y * out).sum(), [x, *made.parameters()]), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_equals_reading(kind):
    made, x = block(kind), rows(False)
    whole, _ = made(x, POSITION, context())
    state = made.mixer.init_state(B, 16, device=torch.device("cpu"), dtype=torch.float64)
    parts = [made.prefill(x[:, :3], POSITION, state, next_step(state, POSITION, 3, x.dtype))]
    for t in range(3, T):
        parts.append(made.decode(x[:, t : t + 1], POSITION, state, next_step(state, POSITION, 1, x.dtype)))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-10, rtol=0)


class Attention(nn.Module):
    """Our mixer where a library expects its attention."""

    def __init__(self, made):
        super().__init__()
        self.run = attention(made)

    def forward(self, hidden_states, **_):
        return self.run(hidden_states), None


class Feed(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.run = feed(made)

    def forward(self, hidden_states):
        return self.run(hidden_states)


class TorchLayer(nn.TransformerEncoderLayer):
    """torch's layer around our attention and MLP."""

    def __init__(self, made, *, norm_first):
        super().__init__(D, 2, dim_feedforward=8, dropout=0.0, norm_first=norm_first, batch_first=True)
        self.made = (made,)

    def _sa_block(self, x, *_, **__):
        return attention(self.made[0])(x)

    def _ff_block(self, x):
        return feed(self.made[0])(x)


def same_with_gradients(made, theirs, norms, run, *, atol):
    """norms: our norm -> theirs, whose weights are copied over and whose gradients are compared."""
    theirs = theirs.double()
    pairs = []
    for ours_name, their_name in norms.items():
        ours, other = getattr(made, ours_name), getattr(theirs, their_name)
        for mine, their in zip(ours.parameters(), other.parameters(), strict=True):
            their.data.copy_(mine.data)
            pairs.append((mine, their))
    x = rows()
    y, expected = made(x, POSITION, context())[0], run(theirs, x)
    torch.testing.assert_close(y, expected, atol=atol, rtol=0)
    out = torch.randn_like(y)
    mine = torch.autograd.grad((y * out).sum(), [x, *(pair[0] for pair in pairs)])
    other = torch.autograd.grad((expected * out).sum(), [x, *(pair[1] for pair in pairs)])
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


@pytest.mark.parametrize(("kind", "norm_first"), [("pre_norm", True), ("post_norm", False)])
def test_pre_and_post_norm_equal_torch(kind, norm_first):
    made = block(kind, norm=layernorm)
    norms = {"mixer_norm": "norm1", "ffn_norm": "norm2"}
    same_with_gradients(made, TorchLayer(made, norm_first=norm_first), norms, lambda m, x: m(x), atol=1e-10)


def library_layer(made, kind):
    import transformers
    from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
    from transformers.models.minimax.modeling_minimax import MiniMaxDecoderLayer
    from transformers.models.olmo2.modeling_olmo2 import Olmo2DecoderLayer

    shared = {"hidden_size": D, "intermediate_size": 30, "num_attention_heads": 2, "num_key_value_heads": 1,
              "num_hidden_layers": 1, "rms_norm_eps": 1e-6}  # fmt: skip
    if kind == "sandwich":
        theirs = Gemma2DecoderLayer(transformers.Gemma2Config(head_dim=12, **shared), 0)
    elif kind == "output_norm":
        theirs = Olmo2DecoderLayer(transformers.Olmo2Config(**shared), 0)
    else:
        factors = {f"{part}_{factor}_factor": value for part in ("full_attn", "linear_attn", "mlp")
                   for factor, value in (("alpha", 3.5), ("beta", 0.7))}  # fmt: skip
        config = transformers.MiniMaxConfig(
            num_local_experts=2, layer_types=["full_attention"], **shared, **factors
        )
        theirs = MiniMaxDecoderLayer(config, 0)
    theirs.self_attn, theirs.mlp = Attention(made), Feed(made)
    return theirs


@pytest.mark.parametrize(
    ("kind", "norm", "fields", "norms"),
    [
        (
            "sandwich", rmsnorm_unit_offset, {},
            {"mixer_norm": "input_layernorm", "mixer_out_norm": "post_attention_layernorm",
             "ffn_norm": "pre_feedforward_layernorm", "ffn_out_norm": "post_feedforward_layernorm"},
        ),
        (
            "output_norm", rmsnorm, {},
            {"mixer_norm": "post_attention_layernorm", "ffn_norm": "post_feedforward_layernorm"},
        ),
        (
            "scaled", rmsnorm, {"alpha": 3.5, "beta": 0.7},
            {"mixer_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
        ),
    ],
    ids=["gemma2", "olmo2", "minimax"],
)  # fmt: skip
def test_equals_a_layer_of_transformers(kind, norm, fields, norms):
    made = block(kind, norm=norm, **fields)
    same_with_gradients(made, library_layer(made, kind), norms, lambda m, x: m(x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_ffn_neither_it_nor_its_norms_are_there(kind):
    made, x = block(kind, ffn=none.Config()), rows()
    outer = getattr(made, "mixer_out_norm", None)
    expected = TEXTBOOK[kind](x, attention(made), made.mixer_norm, outer)
    torch.testing.assert_close(made(x, POSITION, context())[0], expected, atol=1e-12, rtol=0)
    assert not any("ffn" in name for name, _ in made.named_parameters())
    state = made.mixer.init_state(B, 16, device=torch.device("cpu"), dtype=torch.float64)
    read = made.prefill(x, POSITION, state, next_step(state, POSITION, T, x.dtype))
    torch.testing.assert_close(read, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_the_ffn_come_out(kind):
    _, aux = block(kind, ffn=moe.Config(n_experts=4, d_ff=8))(rows(), POSITION, context())
    assert aux > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_final_norm_where_the_stream_is_not_normalised(kind):
    data = {
        "d_model": D, "n_layers": 2, "max_len": 16, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1}, "ffn": {"kind": "swiglu", "d_ff": 30},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
        "residual": {"kind": kind},
    }  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(from_dict(ModelConfig, data, "test"), 50)
    h, _ = model.hidden(torch.randint(50, (2, 7)))
    torch.testing.assert_close(h.square().mean(-1), torch.ones(2, 7), atol=2e-2, rtol=0)
    norms = [name for name, _ in model.named_parameters() if "norm" in name]
    assert len(norms) == (8 if kind == "sandwich" else 4) + (kind != "post_norm")


def test_alpha_is_that_of_deepnet():
    made = block("scaled")
    assert made.alpha == pytest.approx((2 * N_LAYERS) ** 0.25)
    site = Site(d_model=D, layer=0, n_layers=80, max_len=16, norm=rmsnorm.Config())
    module = registry.module("llm.nn.residual", "scaled")
    deep = module.build(module.Config(), site, mixer=gqa.Config(n_heads=2, n_kv_heads=1), ffn=none.Config())
    assert deep.alpha == pytest.approx(3.5565588200778455)  # of the released MiniMax-01
