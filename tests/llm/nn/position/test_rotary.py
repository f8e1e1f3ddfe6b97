"""The rotations against `transformers` and rotary_embedding_torch, and what their Configs refuse."""

import math

import pytest
import torch

from llm import registry
from llm.nn.mixers import gqa
from llm.nn.mixers.base import Context, Site
from llm.nn.norm import rmsnorm
from llm.nn.position import llama3, ntk, pi, rope, yarn
from llm.nn.position._rotary import turn_token
from llm.nn.position.base import Shape

D, N, G, T = 64, 4, 2, 23


def shape(width, max_len=64):
    return Shape(d_model=D, max_len=max_len, widths=[width])


def llama_config(width=16, max_len=64, **rule):
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=D, head_dim=width, num_attention_heads=N, num_key_value_heads=G, num_hidden_layers=1,
        max_position_embeddings=max_len, attn_implementation="eager",
        rope_parameters={"rope_theta": 10000.0, **rule},
    )  # fmt: skip


def their_rule(width=16, seq_len=None, max_len=64, **rule):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = llama_config(width, max_len, **rule)
    return ROPE_INIT_FUNCTIONS[rule["rope_type"]](config, torch.device("cpu"), seq_len=seq_len)


CASES = {
    "pi": (pi.Config(factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    "pi_part": (
        pi.Config(factor=3.0, base=500.0, fraction=0.5),
        {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    ),
    "yarn": (
        yarn.Config(factor=8.0, original_len=2048),
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 2048},
    ),
    "yarn_options": (
        yarn.Config(factor=40.0, original_len=512, beta_fast=16.0, beta_slow=2.0, temperature=1.5, base=1e6),
        {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512, "rope_theta": 1e6,
         "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5},
    ),
    "yarn_short": (
        yarn.Config(factor=4.0, original_len=8, fraction=0.5),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "partial_rotary_factor": 0.5},
    ),
    "llama3": (
        llama3.Config(factor=8.0, original_len=8192, base=500000.0),
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192, "rope_theta": 500000.0},
    ),
    "llama3_short": (
        llama3.Config(factor=4.0, original_len=64, low_turns=0.5, high_turns=3.0),
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 0.5, "high_freq_factor": 3.0,
         "original_max_position_embeddings": 64},
    ),
}  # fmt: skip
EVERY_CASE = pytest.mark.parametrize("name", CASES)


@EVERY_CASE
@pytest.mark.parametrize("width", [16, 64, 128])
def test_frequencies_and_gain_equal_transformers(name, width):
    config, rule = CASES[name]
    ours = registry.build(config, shape(width))
    frequencies, gain = their_rule(width, **rule)
    mine = ours.frequencies(ours.rotated(width)).float()
    torch.testing.assert_close(mine, frequencies, atol=0, rtol=2e-6)  # theirs are float32
    assert ours.gain() == pytest.approx(gain, rel=1e-12)


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("length", [64, 65, 100, 512])
def test_ntk_is_what_dynamic_ntk_does_at_one_length(factor, length):
    """Their dynamic rule at a length of T' tokens is the static one with factor s T'/L - (s - 1)."""
    frequencies, _ = their_rule(rope_type="dynamic", factor=factor, seq_len=length, max_len=64)
    ours = registry.build(ntk.Config(factor=factor * length / 64 - (factor - 1)), shape(16))
    torch.testing.assert_close(ours.frequencies(16).float(), frequencies, atol=0, rtol=2e-6)


def test_ntk_is_rope_with_a_greater_base():
    frequencies = registry.build(ntk.Config(factor=4.0), shape(16)).frequencies(16)
    wanted = registry.build(rope.Config(base=10000.0 * 4.0 ** (16 / 14)), shape(16)).frequencies(16)
    torch.testing.assert_close(frequencies, wanted, atol=0, rtol=1e-15)


@EVERY_CASE
def test_attention_and_its_gradients_equal_llama(name):
    """Our gqa with our rotation beside LlamaAttention with theirs, same weights, positions far from 0."""
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config, rule = CASES[name]
    if rule.get("partial_rotary_factor"):  # LlamaAttention rotates whole heads; GPT-NeoX below does not
        config, rule = _whole(config), {k: v for k, v in rule.items() if k != "partial_rotary_factor"}
    torch.manual_seed(0)
    site = Site(d_model=D, layer=0, n_layers=1, max_len=64, norm=rmsnorm.Config())
    mixer = gqa.build(gqa.Config(n_heads=N, n_kv_heads=G), site)
    position = registry.build(config, shape(16))
    theirs = LlamaAttention(their := llama_config(**rule), layer_idx=0)
    with torch.no_grad():
        parts = mixer.w_qkv.weight.split([N * 16, G * 16, G * 16])
        for target, part in zip((theirs.q_proj, theirs.k_proj, theirs.v_proj), parts, strict=True):
            target.weight.copy_(part)
        theirs.o_proj.weight.copy_(mixer.w_o.weight)
    x = torch.randn(2, T, D, requires_grad=True)
    places = torch.arange(30, 30 + T)
    context = Context(positions=places, dtype=x.dtype, angles=position.angles(places, x.dtype))
    mine = mixer(x, position, context)
    cos_sin = LlamaRotaryEmbedding(their)(x, places[None])
    causal = torch.full((T, T), float("-inf")).triu(1)[None, None]
    wanted, _ = theirs(x, position_embeddings=cos_sin, attention_mask=causal)
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)
    weights = torch.randn_like(mine)
    [d_mine], [d_wanted] = (torch.autograd.grad((y * weights).sum(), [x]) for y in (mine, wanted))
    torch.testing.assert_close(d_mine, d_wanted, atol=1e-5, rtol=1e-5)


def _whole(config):
    values = {name: getattr(config, name) for name in config.__dataclass_fields__ if name != "fraction"}
    return type(config)(**values)


def test_a_part_of_the_channels_is_rotated_as_in_gpt_neox():
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    position = rope.build(rope.Config(fraction=0.25), shape(32))
    q, k = torch.randn(2, 2, N, T, 32, requires_grad=True)
    angles = position.angles(torch.arange(T), q.dtype)
    cos, sin = (torch.cat([table, table], dim=-1)[None] for table in angles.of(32))
    assert cos.shape == (1, T, 8)
    for mine, wanted in zip(
        (position.rotate(q, angles), position.rotate(k, angles)),
        apply_rotary_pos_emb(q, k, cos, sin),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_interleaved_pairs_equal_rotary_embedding_torch(fraction):
    from rotary_embedding_torch import RotaryEmbedding

    width = 16
    theirs = RotaryEmbedding(dim=int(width * fraction), use_xpos=False, cache_if_possible=False)
    position = rope.build(rope.Config(layout="interleaved", fraction=fraction), shape(width))
    x = torch.randn(2, N, T, width, requires_grad=True)
    mine = position.rotate(x, position.angles(torch.arange(T), x.dtype))
    wanted = theirs.rotate_queries_or_keys(x)
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)
    weights = torch.randn_like(x)
    [d_mine], [d_wanted] = (torch.autograd.grad((y * weights).sum(), [x]) for y in (mine, wanted))
    torch.testing.assert_close(d_mine, d_wanted, atol=1e-5, rtol=0)


def test_the_layouts_differ_by_a_permutation_of_channels():
    x = torch.randn(1, N, T, 16, dtype=torch.float64)
    order = torch.cat([torch.arange(0, 16, 2), torch.arange(1, 16, 2)])  # even channels, then odd ones
    half, interleaved = (
        (position := rope.build(rope.Config(layout=layout), shape(16))).rotate(
            y, position.angles(torch.arange(T), y.dtype)
        )
        for layout, y in (("half", x[..., order]), ("interleaved", x))
    )
    torch.testing.assert_close(half, interleaved[..., order], atol=0, rtol=0)


def test_yarn_ramp_by_hand():
    """d = 64, L = 2048, b = 10000: pair indices of 32 turns and of 1 turn are 8.06 and 20.1."""
    position = yarn.build(yarn.Config(factor=4.0, original_len=2048), shape(64))
    assert position.pair_that_turns(32.0, 64) == pytest.approx(
        64 * math.log(2048 / (64 * math.pi)) / (2 * math.log(1e4))
    )
    slower = rope.build(rope.Config(), shape(64)).frequencies(64) / position.frequencies(64)
    assert slower[:9].eq(1).all()  # up to floor(8.06)
    torch.testing.assert_close(slower[21:], torch.full((11,), 4.0, dtype=torch.float64))  # from ceil(20.1) on
    ramp = (14 - 8) / (21 - 8)
    assert slower[14] == pytest.approx(1 / (1 - ramp + ramp / 4))
    assert position.gain() == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (rope, {"base": 1.0}, r"base \(1.0\) must be greater than 1"),
        (rope, {"fraction": 0.0}, r"fraction \(0.0\) must be above 0 and at most 1"),
        (pi, {"fraction": 1.5}, r"fraction \(1.5\)"),
        (pi, {"factor": 0.5}, r"factor \(0.5\) must be at least 1"),
        (ntk, {"factor": 0.9}, r"factor \(0.9\) must be at least 1"),
        (yarn, {"beta_slow": 40.0}, r"beta_slow \(40.0\) must be above 0 and below beta_fast \(32.0\)"),
        (yarn, {"beta_slow": 0.0}, r"beta_slow \(0.0\)"),
        (yarn, {"original_len": 6}, r"original_len \(6\) must be above 2 pi beta_slow"),
        (yarn, {"temperature": 0.0}, r"temperature \(0.0\) must be positive"),
        (yarn, {"factor": 0.0}, r"factor \(0.0\)"),
        (llama3, {"original_len": 0}, r"original_len \(0\) must be positive"),
        (llama3, {"low_turns": 5.0}, r"low_turns \(5.0\) must be above 0 and below high_turns \(4.0\)"),
    ],
)
def test_configs_refuse(module, values, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**values)


@pytest.mark.parametrize(
    ("config", "width"),
    [(rope.Config(), 7), (rope.Config(fraction=0.5), 6), (ntk.Config(), 2), (rope.Config(fraction=0.1), 8)],
)
def test_a_width_that_cannot_be_turned_is_refused(config, width):
    with pytest.raises(ValueError, match="rotation needs an even width of at least"):
        registry.build(config, shape(width))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_compiled_rotation_and_its_gradient_are_the_same(layout):
    """What LLM_COMPILE=1 relies on; writing through `out=` into half a tensor was lost there."""
    position = rope.build(rope.Config(layout=layout, fraction=0.5), shape(16))
    x = torch.randn(2, N, T, 16, requires_grad=True)
    angles = position.angles(torch.arange(T), x.dtype)
    compiled = torch.compile(lambda x: position.rotate(x, angles) * 1.0, backend="aot_eager")
    weights = torch.randn_like(x)
    plain, made = position.rotate(x, angles), compiled(x)
    torch.testing.assert_close(made, plain)
    [d_plain], [d_made] = (torch.autograd.grad((y * weights).sum(), [x]) for y in (plain, made))
    torch.testing.assert_close(d_made, d_plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [2, 10, 64])
def test_one_token_is_turned_to_the_same_bits(dtype, width):
    position = rope.build(rope.Config(), shape(width))
    x, places = torch.randn(3, N, 1, width, dtype=dtype), torch.tensor([[0], [3], [7]])
    plain = position.rotate(x, position.angles(places, dtype))
    with torch.no_grad():
        assert torch.equal(position.rotate(x, position.angles(places, dtype)), plain)
        cos, sin = position.angles(places, dtype).whole(width)
    wrong = turn_token(x, cos, sin.abs())  # the sign is half of the exchange
    assert not torch.equal(wrong, plain)
