"""Performer against its T x T form, performer-pytorch, and the softmax attention it estimates."""

import copy
import itertools
import math

import pytest
import torch

from llm.nn.kernels.linear_attention import chunked
from llm.nn.mixers.linear import one_liner
from llm.nn.mixers.performer import Config, draw_directions, running_max, softmax_logs
from llm.nn.position.base import segment_positions
from tests.laws.mixer_laws import D, T, build, rows, run
from tests.oracles import assert_same, draw


@pytest.fixture(scope="module")
def oracle():
    from performer_pytorch import performer_pytorch

    return performer_pytorch


def projected(mixer, position, x):
    q, k, v = (y.unflatten(2, (mixer.n_heads, -1)).transpose(1, 2) for y in mixer.w_qkv(x).chunk(3, dim=-1))
    if mixer.rotates:
        angles = position.angles(torch.arange(x.shape[1]), x.dtype)
        q, k = position.rotate(q, angles), position.rotate(k, angles)
    return q, k, v


def finish(mixer, o):
    return mixer.w_o(o.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("feature", ["softmax", "relu"])
def test_equals_the_textbook_with_gradients(feature, rotate):
    mixer, position = build("performer", {"n_heads": 3, "chunk": 4, "feature": feature, "rotate": rotate})
    x = rows(2).requires_grad_()
    q, k, v = projected(mixer, position, x)
    if feature == "softmax":
        phi_q, phi_k = (
            torch.exp(y / 8**0.25 @ mixer.directions.T - y.square().sum(-1, keepdim=True) / (2 * 8**0.5))
            for y in (q, k)
        )
    else:
        phi_q, phi_k = (torch.relu(y / 8**0.25 @ mixer.directions.T) + 1e-3 for y in (q, k))
    scores = (phi_q @ phi_k.mT).tril()
    theirs = finish(mixer, scores / scores.sum(-1, keepdim=True) @ v)
    assert_same(run(mixer, position, x), theirs, [x, *mixer.parameters()], atol=1e-10)


@pytest.mark.parametrize("feature", ["softmax", "relu"])
def test_equals_performer_pytorch_with_gradients(oracle, feature):
    mixer, position = build("performer", {"n_heads": 3, "chunk": 4, "feature": feature})
    x = rows(2).requires_grad_()
    q, k, v = projected(mixer, position, x)
    if feature == "softmax":
        phi_q = oracle.softmax_kernel(q, projection_matrix=mixer.directions, is_query=True, eps=0)
        phi_k = oracle.softmax_kernel(k, projection_matrix=mixer.directions, is_query=False, eps=0)
    else:
        phi_q, phi_k = (oracle.generalized_kernel(y, projection_matrix=mixer.directions) for y in (q, k))
    theirs = finish(mixer, oracle.causal_linear_attention_noncuda(phi_q, phi_k, v, eps=0))
    assert_same(run(mixer, position, x), theirs, [x, *mixer.parameters()], atol=1e-10)


def test_both_directions_equal_fast_attention(oracle):
    theirs = oracle.FastAttention(8, nb_features=20).double()
    theirs.projection_matrix.copy_(draw_directions(20, 8, None, theirs.projection_matrix))
    q, k, v = (draw(2, 3, 9, 8, seed=seed) for seed in (1, 2, 3))
    phi_q, phi_k = (
        oracle.softmax_kernel(y, projection_matrix=theirs.projection_matrix, is_query=is_query)
        for y, is_query in ((q, True), (k, False))
    )
    assert_same(one_liner(phi_q, phi_k, v), theirs(q, k, v), [q, k, v], atol=1e-10)


def test_directions_are_orthogonal_in_blocks_and_as_long_as_gaussians(oracle):
    torch.manual_seed(0)
    W = draw_directions(5 * 16 + 3, 16, None, torch.empty(0, dtype=torch.float64))
    assert W.shape == (83, 16)
    for begin in range(0, 83, 16):
        block = W[begin : begin + 16]
        gram = block @ block.T
        torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-5, rtol=0)
    many = draw_directions(16 * 400, 16, None, torch.empty(0))
    theirs = oracle.gaussian_orthogonal_random_matrix(16 * 400, 16)
    for lengths in (many.norm(dim=1), theirs.norm(dim=1)):
        assert float(lengths.square().mean()) == pytest.approx(16, rel=0.03)
        assert float(lengths.std()) == pytest.approx(0.70, rel=0.05)  # chi with 16 degrees
    assert many.mean().abs() < 0.02


def test_products_of_features_are_exp_of_products_on_average():
    torch.manual_seed(0)
    q, k = 0.5 * draw(1, 1, 1, 16, seed=1).detach(), 0.5 * draw(1, 1, 6, 16, seed=2).detach()
    W = draw_directions(16 * 4000, 16, None, torch.empty(0, dtype=torch.float64))
    phi_q, phi_k = (softmax_logs(y, W).exp() / math.sqrt(len(W)) for y in (q, k))
    torch.testing.assert_close(phi_q @ phi_k.mT, (q @ k.mT / 4).exp(), rtol=0.03, atol=0)


def test_more_features_come_closer_to_softmax_attention():
    torch.manual_seed(0)
    q, k = (0.5 * draw(1, 4, 64, 16, seed=seed).detach() for seed in (1, 2))
    v = draw(1, 4, 64, 16, seed=3).detach()
    future = torch.ones(64, 64, dtype=torch.bool).triu(1)
    exact = torch.softmax((q @ k.mT / 4).masked_fill(future, -math.inf), dim=-1) @ v
    errors = []
    for n_features in (16, 64, 256, 1024):
        tries = []
        for _ in range(6):
            W = draw_directions(n_features, 16, None, q)
            values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
            o, _ = chunked(softmax_logs(q, W).exp(), softmax_logs(k, W).exp(), values)
            tries.append(float((o[..., :-1] / o[..., -1:] - exact).square().mean()))
        errors.append(sum(tries) / len(tries))
    for worse, better in itertools.pairwise(errors):
        assert 2 < worse / better < 8  # four times the features, about a quarter of the squared error
    assert errors[-1] < 1e-3


def test_a_huge_key_to_come_changes_nothing_before_it():
    mixer, position = build("performer", {"n_heads": 3, "chunk": 64, "rotate": False})
    mixer, x = mixer.float(), rows(1).float()
    later = x.clone()
    later[:, 8:] *= 60  # its exponentials dwarf the float32 range of a common stabiliser
    before, after = run(mixer, position, x), run(mixer, position, later)
    assert after.isfinite().all()
    torch.testing.assert_close(after[:, :8], before[:, :8], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 30.0, 1000.0])
def test_keys_of_any_length_stay_finite(size):
    mixer, position = build("performer", {"n_heads": 3, "chunk": 4})
    mixer, x = mixer.float(), (rows(2).float() * size).requires_grad_()
    y = run(mixer, position, x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_the_running_maximum_restarts_with_the_document():
    x = draw(2, 3, T, seed=4).detach()
    segments = torch.tensor([[1] * 5 + [2] * 1 + [3] * 7, [4] * 11 + [0] * 2])
    ours = running_max(x, segments)
    place = segment_positions(segments)
    for b in range(2):
        for t in range(T):
            begin = t - int(place[b, t])
            torch.testing.assert_close(ours[b, :, t], x[b, :, begin : t + 1].amax(-1), atol=0, rtol=0)
    assert torch.equal(running_max(x, None), running_max(x, torch.ones(2, T)))


def test_new_directions_come_with_the_step_and_from_the_seed_alone():
    mixer, _ = build("performer", {"n_heads": 3, "redraw_every": 3})
    twin = copy.deepcopy(mixer)
    first = mixer.directions.clone()
    changed = []
    for _ in range(7):
        before = mixer.directions
        mixer.after_step()
        changed.append(not torch.equal(mixer.directions, before))
    assert changed == [False, False, True, False, False, True, False]
    torch.manual_seed(5)  # the global generator has no part in it
    for _ in range(5):
        twin.after_step()
    resumed = build("performer", {"n_heads": 3, "redraw_every": 3}, seed=9)[0]
    resumed.load_state_dict(twin.state_dict())
    for _ in range(2):
        resumed.after_step()
    assert torch.equal(resumed.directions, mixer.directions)
    assert not torch.equal(resumed.directions, first)
    never, _ = build("performer", {"n_heads": 3})
    before = never.directions
    never.after_step()
    assert never.directions is before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 0}, r"n_heads \(0\) must be positive"),
        ({"chunk": 0}, r"chunk \(0\) must be positive"),
        ({"d_head": 0}, r"d_head \(0\) must be positive"),
        ({"n_features": 0}, r"n_features \(0\) must be positive"),
        ({"redraw_every": -1}, r"redraw_every \(-1\) must not be negative"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_model():
    with pytest.raises(ValueError, match=rf"d_model \({D}\) must be a multiple of n_heads \(5\)"):
        build("performer", {"n_heads": 5})
