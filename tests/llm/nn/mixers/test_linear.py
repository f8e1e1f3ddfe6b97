"""Linear attention against its T x T form and against flash-linear-attention's reference."""

import pytest
import torch

from llm.nn.kernels.linear_attention import chunked
from llm.nn.mixers.linear import EPS, Config, feature_map, one_liner
from tests.laws.mixer_laws import build, rows, run
from tests.oracles import Largest, assert_same, draw, fla

FEATURES = ["elu", "relu", "relu2", "identity"]


def textbook(mixer, position, x):
    """The T x T matrix of feature products, row by row divided by its sum."""
    T, N, H = x.shape[1], mixer.n_heads, mixer.d_head
    q, k, v = (y.view(*x.shape[:2], N, H).transpose(1, 2) for y in mixer.w_qkv(x).chunk(3, dim=-1))
    q, k = feature_map(q, mixer.feature), feature_map(k, mixer.feature)
    plain = (q @ k.mT).tril()
    if mixer.rotates:
        angles = position.angles(torch.arange(T), x.dtype)
        q, k = position.rotate(q, angles), position.rotate(k, angles)
    o = (q @ k.mT).tril() @ v
    if mixer.feature == "identity":
        o = o.transpose(1, 2).flatten(2)
        o = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.o_norm.gain
    else:
        o = (o / (plain.sum(-1, keepdim=True) + EPS)).transpose(1, 2).flatten(2)
    return mixer.w_o(o)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("feature", FEATURES)
def test_equals_the_textbook_with_gradients(feature, rotate):
    values = {"n_heads": 3, "chunk": 4, "feature": feature, "rotate": rotate}
    mixer, position = build("linear", values)
    x = rows(2).requires_grad_()
    inputs = [x, *mixer.parameters()]
    assert_same(run(mixer, position, x), textbook(mixer, position, x), inputs, atol=1e-10)


@pytest.mark.parametrize("form", ["naive_recurrent_linear_attn", "naive_chunk_linear_attn"])
def test_equals_fla_with_gradients(form):
    q, k, v = draw(2, 128, 3, 5, seed=1), draw(2, 128, 3, 5, seed=2), draw(2, 128, 3, 7, seed=3)
    phi_q, phi_k = feature_map(q, "elu"), feature_map(k, "elu")
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    o, _ = chunked(*(x.transpose(1, 2) for x in (phi_q, phi_k, values)), chunk=16)
    ours = (o[..., :-1] / o[..., -1:]).transpose(1, 2)
    theirs = getattr(fla("ops/linear_attn/naive.py"), form)(phi_q, phi_k, v, scale=1.0, normalize=True)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert_same(ours, theirs, [q, k, v], atol=1e-6)


def test_elu_is_elu_plus_one_and_stays_positive():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(feature_map(x, "elu"), torch.nn.functional.elu(x) + 1)
    assert feature_map(torch.tensor(-40.0), "elu") > 0  # elu + 1 is 0 in float32 here


@pytest.mark.parametrize("feature", ["elu", "relu", "relu2"])
def test_tokens_that_all_features_miss_stay_finite(feature):
    mixer, position = build("linear", {"n_heads": 2, "feature": feature})
    x = rows(1).float().requires_grad_()
    mixer = mixer.float()
    with torch.no_grad():
        mixer.w_qkv.weight.mul_(200)
    y = run(mixer, position, x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_the_one_liner_averages_over_all_keys():
    q, k = feature_map(draw(2, 3, 5, 4, seed=1), "elu"), feature_map(draw(2, 3, 9, 4, seed=2), "elu")
    v = draw(2, 3, 9, 6, seed=3)
    weights = q @ k.mT
    wanted = weights @ v / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(one_liner(q, k, v), wanted, atol=1e-12, rtol=0)
    # the last token of the causal form sees all keys too
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    o = chunked(q[:, :, :1].expand(-1, -1, 9, -1), k, values, chunk=4)[0][:, :, -1]
    torch.testing.assert_close(o[..., :-1] / o[..., -1:], wanted[:, :, 0], atol=1e-12, rtol=0)


def test_memory_grows_with_the_length_not_with_its_square():
    mixer, position = build("linear", {"n_heads": 2, "chunk": 8}, position="none")
    sizes = []
    for length in (128, 256):
        x = torch.randn(1, length, 24, dtype=torch.float64)
        with Largest() as largest:
            run(mixer, position, x).sum().backward()
        sizes.append(largest.numbers)
    assert sizes[1] <= 2 * sizes[0] < 256 * 256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 0}, r"n_heads \(0\) must be positive"),
        ({"chunk": 0}, r"chunk \(0\) must be positive"),
        ({"d_head": 0}, r"d_head \(0\) must be positive"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_model():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of n_heads \(5\)"):
        build("linear", {"n_heads": 5})
