"""DeltaNet's layer against its equations, token by token; what a write does to an old one."""

import pytest
import torch
import torch.nn.functional as F

from llm.nn.activation import silu
from llm.nn.mixers._delta import UNIT_EPS
from llm.nn.mixers.base import Site
from llm.nn.mixers.delta import Config
from llm.nn.mixers.delta import build as make
from llm.nn.norm.rmsnorm import Config as Norm
from tests.laws.mixer_laws import build, rows, run
from tests.oracles import assert_same

CASES = [
    {"n_heads": 3, "chunk": 4},
    {"n_heads": 2, "n_value_heads": 4, "d_key": 6, "d_value": 5, "conv": 2, "negative": True, "chunk": 64},
]


def textbook(mixer, x_BTD):
    """Convolution, unit keys, one correction a token, norm: a loop over tokens and heads."""
    (B, T, _), W, keys = x_BTD.shape, mixer.conv.width, mixer.parts[0]
    padded = F.pad(mixer.w_qkv(x_BTD), (0, 0, W - 1, 0))
    taps = silu(sum(padded[:, j : j + T] * mixer.conv.filter_WC[j] for j in range(W)))
    beta = torch.sigmoid(mixer.w_beta(x_BTD)) * (2 if mixer.config.negative else 1)
    share = mixer.n_heads // mixer.key_heads
    memory = [x_BTD.new_zeros(B, mixer.d_key, mixer.d_value) for _ in range(mixer.n_heads)]
    rows_out = []
    for t in range(T):
        reads = []
        for h in range(mixer.n_heads):
            g = h // share
            q = taps[:, t, g * mixer.d_key : (g + 1) * mixer.d_key]
            k = taps[:, t, keys + g * mixer.d_key : keys + (g + 1) * mixer.d_key]
            v = taps[:, t, 2 * keys + h * mixer.d_value : 2 * keys + (h + 1) * mixer.d_value]
            q, k = (y / (y.square().sum(-1, keepdim=True) + UNIT_EPS).sqrt() for y in (q, k))
            error = v - torch.einsum("bkv,bk->bv", memory[h], k)
            memory[h] = memory[h] + beta[:, t, h, None, None] * k[:, :, None] * error[:, None]
            reads.append(torch.einsum("bkv,bk->bv", memory[h], q) * mixer.d_key**-0.5)
        o = torch.stack(reads, 1)
        normed = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-6) * mixer.o_norm.gain
        rows_out.append(mixer.w_o(normed.flatten(1)))
    return torch.stack(rows_out, 1)


@pytest.mark.parametrize("values", CASES)
def test_equals_the_textbook_with_gradients(values):
    mixer, position = build("delta", values)
    torch.nn.init.normal_(mixer.o_norm.gain, 1, 0.2)
    x = rows(2, 11).requires_grad_()
    assert_same(run(mixer, position, x), textbook(mixer, x), [x, *mixer.parameters()], atol=1e-9)


def test_a_key_of_any_length_writes_the_same():
    mixer, _ = build("delta", {"n_heads": 3, "conv": 1})
    torch.nn.init.ones_(mixer.conv.filter_WC)
    qkv = rows(1).repeat(1, 1, 3)
    q, k, v = mixer.split(qkv)
    torch.testing.assert_close(k.norm(dim=-1), torch.ones_like(k[..., 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        q.norm(dim=-1) * mixer.d_key**0.5, torch.ones_like(k[..., 0]), atol=1e-3, rtol=0
    )


def test_negative_corrects_up_to_twice_the_error():
    mixer, _ = build("delta", {"n_heads": 3, "negative": True})
    torch.nn.init.constant_(mixer.w_beta.weight, 100.0)
    assert mixer.beta(torch.ones(1, 1, 24, dtype=torch.float64)).min() > 1.99


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 0}, "n_heads (0) must be positive"),
        ({"d_key": 0}, "d_key (0) must be positive"),
        ({"conv": 0}, "conv (0) must be positive"),
        ({"n_heads": 4, "n_value_heads": 6}, "n_value_heads (6) must be a multiple of n_heads (4)"),
    ],
)
def test_wrong_numbers_are_named(values, message):
    with pytest.raises(ValueError) as error:
        Config(**values)
    assert message in str(error.value)


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of n_heads \(5\)"):
        make(Config(n_heads=5), Site(d_model=24, layer=0, n_layers=1, max_len=8, norm=Norm()))
