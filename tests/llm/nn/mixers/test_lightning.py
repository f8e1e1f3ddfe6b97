"""Lightning attention against its equations, MiniMax in `transformers`, and flash-linear-attention's reference."""

import pytest
import torch
from transformers import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

from llm.nn.kernels.linear_attention import chunked
from llm.nn.mixers.lightning import Config, decay_slopes
from tests.laws.mixer_laws import LAYER, N_LAYERS, D, build, rows, run
from tests.oracles import assert_same, draw, fla


def textbook(mixer, x):
    """One token after the other."""
    N, H, state, out = mixer.n_heads, mixer.d_head, 0, []
    for t in range(x.shape[1]):
        qkv = mixer.w_qkv(x[:, t])
        q, k, v = (qkv * torch.sigmoid(qkv)).view(-1, N, 3 * H).split(H, dim=-1)
        m = torch.tensor(mixer.slopes, dtype=x.dtype)[:, None, None]
        state = torch.exp(-m) * state + k[..., None] * v[..., None, :]
        o = (q[..., None] * state).sum(-2).flatten(1)
        o = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.o_norm.gain
        out.append(mixer.w_o(torch.sigmoid(mixer.w_gate(x[:, t])) * o))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_equals_the_textbook_with_gradients(chunk):
    mixer, position = build("lightning", {"n_heads": 3, "chunk": chunk})
    x = rows(2).requires_grad_()
    assert_same(run(mixer, position, x), textbook(mixer, x), [x, *mixer.parameters()], atol=1e-10)


@pytest.mark.parametrize("length", [8, 13])  # whole tiles, and a short last one
def test_equals_minimax_with_gradients(length):
    config = MiniMaxConfig(
        hidden_size=D, num_attention_heads=4, num_hidden_layers=N_LAYERS, block_size=4, head_dim=6,
        layer_types=["linear_attention"] * N_LAYERS, rms_norm_eps=1e-6,
    )  # fmt: skip
    theirs = MiniMaxLightningAttention(config, LAYER).double()
    theirs.norm.variance_epsilon = 1e-6
    mixer, position = build("lightning", {"n_heads": 4, "chunk": 4})
    pairs = {"qkv_proj": "w_qkv", "out_proj": "w_o", "output_gate": "w_gate"}
    for name, mine in pairs.items():
        getattr(theirs, name).weight = getattr(mixer, mine).weight  # shared: gradients compare by themselves
    torch.nn.init.normal_(mixer.o_norm.gain)
    theirs.norm.weight = mixer.o_norm.gain
    x = rows(2)[:, :length].requires_grad_()
    inputs = [x, *mixer.parameters()]
    assert_same(run(mixer, position, x), theirs(x, None, None)[0], inputs, atol=1e-6)


@pytest.mark.parametrize("form", ["naive_parallel_simple_gla", "naive_recurrent_simple_gla"])
def test_decayed_sums_equal_fla_with_gradients(form):
    q, k, v = (draw(2, 37, 4, 5, seed=seed) for seed in (1, 2, 3))
    decay = -torch.tensor(decay_slopes(4, 1, 3), dtype=torch.float64).expand(2, 37, 4)
    o, _ = chunked(*(x.transpose(1, 2) for x in (q, k, v)), decay.transpose(1, 2), chunk=8)
    theirs = getattr(fla("ops/simple_gla/naive.py"), form)(q, k, v, decay, scale=1.0)[0]
    assert_same(o.transpose(1, 2), theirs, [q, k, v], atol=1e-6)


def test_slopes_fall_with_the_head_and_with_the_layer():
    first, last = decay_slopes(4, 0, 3), decay_slopes(4, 2, 3)
    assert first == pytest.approx([1 / 4, 1 / 16, 1 / 64, 1 / 256], rel=1e-4)
    assert max(last) < 1e-4  # hardly any decay
    assert decay_slopes(8, 0, 1) == pytest.approx([2.0**-i for i in range(1, 9)], rel=1e-4)


def test_without_decay_it_is_a_plain_sum():
    mixer, position = build("lightning", {"n_heads": 3, "chunk": 4})
    mixer.slopes = [0.0] * 3
    x = rows(1)
    qkv = mixer.w_qkv(x)
    q, k, v = (qkv * torch.sigmoid(qkv)).view(1, -1, 3, 24).transpose(1, 2).split(8, dim=-1)
    o = ((q @ k.mT).tril() @ v).transpose(1, 2).flatten(2)
    wanted = mixer.w_o(torch.sigmoid(mixer.w_gate(x)) * mixer.o_norm(o))
    torch.testing.assert_close(run(mixer, position, x), wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 0}, r"n_heads \(0\) must be positive"),
        ({"chunk": -1}, r"chunk \(-1\) must be positive"),
        ({"d_head": 0}, r"d_head \(0\) must be positive"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_model():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of n_heads \(5\)"):
        build("lightning", {"n_heads": 5})
