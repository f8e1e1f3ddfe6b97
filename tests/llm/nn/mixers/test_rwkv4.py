"""rwkv4 and its channel mix: against transformers with gradients, one layer and states of a whole model."""

import pytest
import torch

from tests.laws.mixer_laws import D, build, rows, run


def layers(**changes):
    import transformers
    from transformers.models.rwkv import modeling_rwkv as theirs

    config = transformers.RwkvConfig(hidden_size=D, num_hidden_layers=3, vocab_size=10, **changes)
    return theirs.RwkvSelfAttention(config, 1).double(), theirs.RwkvFeedForward(config, 1).double()


def assert_equal(mixer, position, layer, pairs):
    x = rows(2, 19)
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = run(mixer, position, mine), layer(yours)[0]
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(mine.grad, yours.grad, atol=2e-5, rtol=1e-4)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


def shares(table):
    return dict(zip(("key", "value", "receptance"), table.split(1), strict=False))


def test_time_mix_equals_transformers_forward_and_gradients():
    mixer, position = build("rwkv4", {})
    torch.nn.init.uniform_(mixer.share_3D)
    layer, _ = layers()
    layer.load_state_dict({
        "time_decay": mixer.log_rate, "time_first": mixer.bonus,
        **{f"time_mix_{name}": share[None] for name, share in shares(mixer.share_3D).items()},
        "key.weight": mixer.w_k.weight, "value.weight": mixer.w_v.weight,
        "receptance.weight": mixer.w_r.weight, "output.weight": mixer.w_o.weight,
    })  # fmt: skip
    assert_equal(mixer, position, layer, [
        (mixer.log_rate, layer.time_decay), (mixer.bonus, layer.time_first), (mixer.w_k.weight, layer.key.weight),
    ])  # fmt: skip


@pytest.mark.parametrize("d_ff", [None, 40])
def test_gated_channel_mix_equals_transformers_forward_and_gradients(d_ff):
    mixer, position = build("rwkv_channel", {"gate": True, "d_ff": d_ff})
    torch.nn.init.uniform_(mixer.shares)
    _, layer = layers(intermediate_size=d_ff)
    up, gate = mixer.shares.split(1)
    layer.load_state_dict({
        "time_mix_key": up[None], "time_mix_receptance": gate[None], "key.weight": mixer.w_up.weight,
        "value.weight": mixer.w_down.weight, "receptance.weight": mixer.w_gate.weight,
    })  # fmt: skip
    assert_equal(mixer, position, layer, [
        (mixer.w_up.weight, layer.key.weight), (mixer.w_gate.weight, layer.receptance.weight),
    ])  # fmt: skip


def test_first_tables_are_those_of_transformers():
    """But for time_first, which is 1 there: `ones_like(x * log 0.3 + zigzag)` drops what it is given."""
    import transformers

    config = transformers.RwkvConfig(hidden_size=D, num_hidden_layers=3, vocab_size=10)
    model = transformers.RwkvModel(config)
    mixer, _ = build("rwkv4", {})
    theirs = model.blocks[1].attention
    torch.testing.assert_close(mixer.log_rate.float(), theirs.time_decay.data)
    for name, share in shares(mixer.share_3D).items():
        torch.testing.assert_close(share[None].float(), getattr(theirs, f"time_mix_{name}").data)
    channel, _ = build("rwkv_channel", {"gate": True})
    torch.testing.assert_close(
        channel.shares[:1, None].float(), model.blocks[1].feed_forward.time_mix_key.data
    )
    assert mixer.bonus.double().unique().numel() == 3
    assert all(p.elementwise for p in (mixer.share_3D, mixer.log_rate, mixer.bonus, channel.shares))


def test_a_value_comes_back_where_its_key_is_far_above_all_others():
    mixer, position = build("rwkv4", {})
    with torch.no_grad():
        for layer in (mixer.w_v, mixer.w_o):
            layer.weight.copy_(torch.eye(D))
        mixer.share_3D.fill_(1)
        mixer.w_k.weight.zero_()
        mixer.w_k.weight[:, 0] = 1000
        mixer.w_r.weight.zero_()
        mixer.log_rate.fill_(-8)
    x = rows(1) * 0.1
    x[..., 0] = 0
    x[:, 3, 0] = 1
    y = run(mixer, position, x)
    torch.testing.assert_close(2 * y[:, 3:, 1:], x[:, 3:4, 1:].expand(-1, 10, -1), atol=1e-9, rtol=0)
