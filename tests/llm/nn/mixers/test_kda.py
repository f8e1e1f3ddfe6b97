"""KDA's layer against transformers' Kimi Linear; with equal channels it is a gated delta rule."""

import pytest
import torch

from llm.nn.mixers.kda import Config
from tests.laws.mixer_laws import D, build, rows, run
from tests.oracles import assert_same


@pytest.mark.parametrize(("chunk", "length"), [(4, 19), (64, 32)])
def test_equals_kimi_linear_forward_and_gradients(chunk, length):
    import transformers
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    mixer, position = build("kda", {"n_heads": 3, "chunk": chunk})
    config = transformers.KimiLinearConfig(
        hidden_size=D, linear_num_heads=3, linear_head_dim=8, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
        num_hidden_layers=2, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    layer = KimiLinearDeltaAttention(config, 0).double()
    q, k, v = mixer.w_qkv.weight.split(mixer.parts)
    layer.load_state_dict({
        "q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "conv1d.weight": mixer.conv.filter_WC.T[:, None],
        "forget_gate.f_a_proj.weight": mixer.w_decay_down.weight,
        "forget_gate.f_b_proj.weight": mixer.w_decay_up.weight,
        "forget_gate.dt_bias": mixer.dt_bias, "forget_gate.A_log": mixer.log_rate[None, None, :, None],
        "b_proj.weight": mixer.w_beta.weight, "g_a_proj.weight": mixer.w_gate_down.weight,
        "g_b_proj.weight": mixer.w_gate_up.weight, "o_norm.weight": mixer.o_norm.gain,
        "o_proj.weight": mixer.w_o.weight,
    })  # fmt: skip
    x = rows(2, length).requires_grad_()
    assert_same(run(mixer, position, x), layer(x), [x], atol=2e-6)
    weight = torch.randn(2, length, D, dtype=torch.float64)
    (run(mixer, position, x) * weight).sum().backward()
    (layer(x) * weight).sum().backward()
    pairs = [
        (mixer.w_decay_up.weight, layer.forget_gate.f_b_proj.weight), (mixer.w_gate_down.weight, layer.g_a_proj.weight),
        (mixer.dt_bias, layer.forget_gate.dt_bias), (mixer.w_beta.weight, layer.b_proj.weight),
    ]  # fmt: skip
    for mine, theirs in pairs:
        unit = max(1.0, float(theirs.grad.abs().max()))
        torch.testing.assert_close(mine.grad / unit, theirs.grad / unit, atol=5e-6, rtol=0)


def test_channels_that_fade_alike_make_a_gated_delta_rule():
    """The same weights, but every channel of a head given the decay that Gated DeltaNet has for the head."""
    kda, position = build("kda", {"n_heads": 3, "chunk": 4})
    gated, _ = build("gated_delta", {"n_heads": 3, "chunk": 4})
    shared = {key: value for key, value in gated.state_dict().items() if key in kda.state_dict()}
    kda.load_state_dict({key: v for key, v in shared.items() if key != "dt_bias"}, strict=False)
    kda.log_decay = lambda x: gated.log_decay(x).expand(-1, -1, -1, 8)
    kda.finish = gated.finish
    x = rows(2)
    torch.testing.assert_close(run(kda, position, x), run(gated, position, x), atol=1e-10, rtol=0)


def test_each_channel_fades_at_its_own_rate():
    mixer, _ = build("kda", {"n_heads": 3})
    decay = mixer.log_decay(rows(2))
    assert decay.shape == (2, 3, 13, 8)
    assert decay.max() < 0
    assert decay.std(-1).min() > 0


def test_a_rank_of_nothing_is_named():
    with pytest.raises(ValueError, match=r"rank \(0\) must be positive"):
        Config(rank=0)
