"""Gated DeltaNet's layer against transformers' Qwen3-Next; without decay and gate it is DeltaNet."""

import pytest
import torch

from tests.laws.mixer_laws import D, build, rows, run
from tests.oracles import assert_same

CASES = [
    {"n_heads": 3, "chunk": 4},
    {"n_heads": 2, "n_value_heads": 4, "d_key": 6, "d_value": 5, "conv": 2, "chunk": 16},
]


def interleaved(mixer):
    """Rows of our matrices in Qwen3-Next's order: for each key head its q, k, values, gates; its beta, decay."""
    G, R = mixer.key_heads, mixer.n_heads // mixer.key_heads
    q, k, v = mixer.w_qkv.weight.split(mixer.parts)
    wide = [x.unflatten(0, (G, -1)) for x in (q, k, v, mixer.w_gate.weight)]
    small = [x.unflatten(0, (G, R)) for x in (mixer.w_beta.weight, mixer.w_decay.weight)]
    return torch.cat(wide, 1).flatten(0, 1), torch.cat(small, 1).flatten(0, 1)


@pytest.mark.parametrize("values", CASES)
def test_equals_qwen3_next_forward_and_gradients(values):
    import transformers
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    mixer, position = build("gated_delta", values)
    config = transformers.Qwen3NextConfig(
        hidden_size=D, linear_num_value_heads=mixer.n_heads, linear_num_key_heads=mixer.key_heads,
        linear_key_head_dim=mixer.d_key, linear_value_head_dim=mixer.d_value, num_hidden_layers=2,
        linear_conv_kernel_dim=mixer.conv.width, rms_norm_eps=1e-6, layer_types=["linear_attention"] * 2,
    )  # fmt: skip
    layer = Qwen3NextGatedDeltaNet(config, 0).double()
    big, small = interleaved(mixer)
    layer.load_state_dict({
        "in_proj_qkvz.weight": big, "in_proj_ba.weight": small, "dt_bias": mixer.dt_bias, "A_log": mixer.log_rate,
        "conv1d.weight": mixer.conv.filter_WC.T[:, None], "norm.weight": mixer.o_norm.gain,
        "out_proj.weight": mixer.w_o.weight,
    })  # fmt: skip
    x = rows(2, 19).requires_grad_()
    assert_same(run(mixer, position, x), layer(x), [x], atol=2e-6)
    weight = torch.randn(2, 19, D, dtype=torch.float64)
    (run(mixer, position, x) * weight).sum().backward()
    (layer(x) * weight).sum().backward()
    for mine, theirs in ((mixer.w_o, layer.out_proj.weight), (mixer.o_norm, layer.norm.weight)):
        torch.testing.assert_close(next(mine.parameters()).grad, theirs.grad, atol=1e-5, rtol=1e-5)
    for mine, theirs in ((mixer.dt_bias, layer.dt_bias), (mixer.log_rate, layer.A_log)):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_without_decay_and_with_an_open_gate_it_is_deltanet():
    gated, position = build("gated_delta", {"n_heads": 3, "chunk": 4})
    plain, _ = build("delta", {"n_heads": 3, "chunk": 4})
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if k in plain.state_dict()})
    gated.finish = plain.finish
    torch.nn.init.constant_(gated.log_rate, -60)  # rate e^-60
    x = rows(2)
    torch.testing.assert_close(run(gated, position, x), run(plain, position, x), atol=1e-10, rtol=0)


def test_a_fast_rate_forgets_the_past():
    mixer, position = build("gated_delta", {"n_heads": 3, "conv": 1})
    torch.nn.init.constant_(mixer.log_rate, 8.0)
    torch.nn.init.constant_(mixer.dt_bias, 5.0)
    x = rows(1)
    changed = x.clone()
    changed[:, :5] += 1
    torch.testing.assert_close(
        run(mixer, position, x)[:, 5:], run(mixer, position, changed)[:, 5:], atol=1e-12, rtol=0
    )


def test_first_rates_lie_in_their_ranges():
    mixer, _ = build("gated_delta", {"n_heads": 24})
    dt, rate = torch.nn.functional.softplus(mixer.dt_bias), mixer.log_rate.exp()
    for values, low, high in ((dt, 9e-4, 0.11), (rate, 1, 16)):
        assert low <= values.min() <= values.max() <= high
    assert all(table.elementwise for table in (mixer.dt_bias, mixer.log_rate))
