"""The log-linear layer against its equations; what its state may hold."""

import pytest
import torch
import torch.nn.functional as F

from llm.nn.mixers.log_linear import A_RANGE, DT_RANGE, Config
from tests.laws.mixer_laws import MAX_LEN, D, build, new_state, rows, run
from tests.oracles import assert_same


def textbook(mixer, x):
    """Every equation of the page over one row, the past as a double loop."""
    N, H, rates = mixer.n_heads, mixer.d_head, mixer.rates
    qkv = mixer.w_qkv(x)
    taps = mixer.conv.filter_WC
    padded = F.pad(qkv, (0, 0, len(taps) - 1, 0))
    qkv = F.silu(sum(taps[j] * padded[:, j : j + x.shape[1]] for j in range(len(taps))))
    q, k, v = (y.unflatten(2, (N, H)) for y in qkv.chunk(3, dim=-1))
    dt = F.softplus(rates.w_dt(x) + rates.dt_bias)
    a = -dt * rates.log_rate.exp()
    lam = F.softplus(rates.level_gain * rates.w_level(x).unflatten(2, (N, -1)))
    out = []
    for t in range(x.shape[1]):
        o = 0
        for s in range(t + 1):
            fade = a[:, s + 1 : t + 1].sum(1).exp() * lam[:, t, :, (t ^ s).bit_length()] * dt[:, s]
            o = o + ((q[:, t] * k[:, s]).sum(-1) * fade)[..., None] * v[:, s]
        gated = o.flatten(1) * F.silu(mixer.w_gate(x[:, t]))
        out.append(gated / (gated.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.o_norm.gain)
    return mixer.w_o(torch.stack(out, dim=1))


@pytest.mark.parametrize("chunk", [2, 64])
def test_equals_the_textbook_with_gradients(chunk):
    mixer, position = build("log_linear", {"n_heads": 3, "chunk": chunk})
    x = rows(2).requires_grad_()
    assert_same(run(mixer, position, x), textbook(mixer, x), [x, *mixer.parameters()], atol=1e-10)


def test_first_rates_are_those_of_mamba_2():
    mixer, _ = build("log_linear", {"n_heads": 24})
    dt = F.softplus(mixer.rates.dt_bias)
    assert dt.min() >= DT_RANGE[0] * 0.99
    assert dt.max() <= DT_RANGE[1] * 1.01
    rate = mixer.rates.log_rate.exp()
    assert rate.min() >= A_RANGE[0]
    assert rate.max() <= A_RANGE[1]
    assert len(set(rate.tolist())) == 24
    assert mixer.rates.level_gain.eq(1).all()
    tables = [mixer.rates.dt_bias, mixer.rates.log_rate, mixer.rates.level_gain, mixer.conv.filter_WC]
    assert all(table.elementwise for table in tables)


def test_levels_are_capped_by_the_length_of_the_model():
    mixer, _ = build("log_linear", {"n_heads": 3})
    assert mixer.rates.n_levels == 6  # 32 tokens: 0, and blocks of 1, 2, 4, 8, 16
    with pytest.raises(ValueError, match=f"levels for {MAX_LEN} tokens, asked for {2 * MAX_LEN}"):
        new_state(mixer, 1, 2 * MAX_LEN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 0}, r"n_heads \(0\) must be positive"),
        ({"conv": 0}, r"conv \(0\) must be positive"),
        ({"d_head": 0}, r"d_head \(0\) must be positive"),
        ({"chunk": 0}, r"chunk \(0\) must be a power of two"),
        ({"chunk": 24}, r"chunk \(24\) must be a power of two"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_model():
    with pytest.raises(ValueError, match=rf"d_model \({D}\) must be a multiple of n_heads \(5\)"):
        build("log_linear", {"n_heads": 5})
