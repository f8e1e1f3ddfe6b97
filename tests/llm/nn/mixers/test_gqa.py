"""The gate of grouped-query attention against transformers' Qwen3-Next, and what it does by itself."""

import pytest
import torch

from llm import registry
from llm.nn.mixers.base import Site
from llm.nn.position.base import Shape
from tests.laws.mixer_laws import D, build, rows, run
from tests.oracles import assert_same

N, G, H, FRACTION = 4, 2, 8, 0.5


def gated():
    """A mixer with gains of 1 + w, and rotation of half of every head, as in Qwen3-Next."""
    torch.manual_seed(0)
    norm = registry.module("llm.nn.norm", "rmsnorm_unit_offset").Config()
    kind, rope = registry.module("llm.nn.mixers", "gqa"), registry.module("llm.nn.position", "rope")
    config = kind.Config(n_heads=N, n_kv_heads=G, d_head=H, qk_norm=True, gate=True)
    mixer = kind.build(config, Site(d_model=D, layer=0, n_layers=2, max_len=32, norm=norm)).double()
    for part in (mixer.q_norm, mixer.k_norm):
        torch.nn.init.normal_(part.offset, std=0.3)
    shape = Shape(d_model=D, max_len=32, widths=mixer.rotates, n_heads=N)
    return mixer, rope.build(rope.Config(fraction=FRACTION), shape)


def interleaved(mixer):
    """Rows of queries and gates in Qwen3-Next's order: for each head its query, then its gate."""
    q, k, v = mixer.w_qkv.weight.split([N * H, G * H, G * H])
    both = torch.cat([x.unflatten(0, (N, H)) for x in (q, mixer.w_gate.weight)], dim=1)
    return both.flatten(0, 1), k, v


def qwen3_next(mixer, length):
    """Their layer with our weights, and its causal mask and rotation."""
    import transformers
    from transformers.models.qwen3_next import modeling_qwen3_next as theirs

    config = transformers.Qwen3NextConfig(
        hidden_size=D, num_attention_heads=N, num_key_value_heads=G, head_dim=H, num_hidden_layers=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": FRACTION},
        layer_types=["full_attention"] * 2, attn_implementation="eager",
    )  # fmt: skip
    layer = theirs.Qwen3NextAttention(config, 0).double()
    both, k, v = interleaved(mixer)
    layer.load_state_dict({
        "q_proj.weight": both, "k_proj.weight": k, "v_proj.weight": v, "o_proj.weight": mixer.w_o.weight,
        "q_norm.weight": mixer.q_norm.offset, "k_norm.weight": mixer.k_norm.offset,
    })  # fmt: skip
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    places = torch.arange(length)[None]
    rotation = theirs.Qwen3NextRotaryEmbedding(config).double()(torch.zeros(1, dtype=torch.float64), places)
    return layer, mask, rotation


def test_equals_qwen3_next_forward_and_gradients():
    mixer, position = gated()
    layer, mask, rotation = qwen3_next(mixer, 19)
    x = rows(2, 19).requires_grad_()
    assert_same(run(mixer, position, x), layer(x, rotation, mask)[0], [x], atol=2e-6)
    weight = torch.randn(2, 19, D, dtype=torch.float64)
    (run(mixer, position, x) * weight).sum().backward()
    (layer(x, rotation, mask)[0] * weight).sum().backward()
    with torch.no_grad():
        for part, grad in ((mixer.w_gate, mixer.w_gate.weight.grad), (mixer.w_qkv, mixer.w_qkv.weight.grad)):
            part.weight.copy_(grad)  # so that gradients are put in their order as weights are
    for mine, wanted in zip(interleaved(mixer), (layer.q_proj, layer.k_proj, layer.v_proj), strict=True):
        torch.testing.assert_close(mine, wanted.weight.grad, atol=1e-5, rtol=1e-5)
    for mine, wanted in ((mixer.q_norm, layer.q_norm), (mixer.k_norm, layer.k_norm)):
        torch.testing.assert_close(mine.offset.grad, wanted.weight.grad, atol=1e-5, rtol=1e-5)


def test_a_gate_of_zeros_halves_and_one_far_open_does_nothing():
    mixer, position = build("gqa", {"n_heads": N, "n_kv_heads": G, "gate": True})
    plain, _ = build("gqa", {"n_heads": N, "n_kv_heads": G})
    plain.load_state_dict({key: w for key, w in mixer.state_dict().items() if key in plain.state_dict()})
    x = rows(2)
    torch.nn.init.zeros_(mixer.w_gate.weight)
    torch.testing.assert_close(run(mixer, position, x), run(plain, position, x) / 2, atol=1e-12, rtol=0)
    mixer.w_gate.forward = lambda x: torch.full((*x.shape[:2], D), 40.0, dtype=x.dtype)
    torch.testing.assert_close(run(mixer, position, x), run(plain, position, x), atol=1e-12, rtol=0)


def test_a_gate_can_take_away_what_softmax_must_give():
    """Scores sum to one, so that a head without a gate reads something even where there is nothing to read."""
    mixer, position = build("gqa", {"n_heads": N, "n_kv_heads": G, "gate": True})
    mixer.w_gate.forward = lambda x: torch.full((*x.shape[:2], D), -80.0, dtype=x.dtype)
    assert run(mixer, position, rows(2)).abs().max() < 1e-30


@pytest.mark.parametrize("gate", [False, True])
def test_without_a_gate_there_is_no_weight_of_it(gate):
    mixer, _ = build("gqa", {"n_heads": N, "n_kv_heads": G, "gate": gate})
    assert ("w_gate.weight" in mixer.state_dict()) == gate
