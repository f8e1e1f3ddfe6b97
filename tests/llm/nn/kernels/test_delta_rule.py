"""The chunked delta rule against its recurrence and against flash-linear-attention's references."""

import pytest
import torch

from llm.nn.kernels.delta_rule import chunked, step
from tests.oracles import Largest, assert_same, draw, fla

B, N, K, V = 2, 3, 5, 7


def make(T, width, seed=0):
    """q, k of unit length, v, beta in (0, 1) and a log-decay with `width` numbers a head (0: none)."""
    q, k = (torch.nn.functional.normalize(draw(B, N, T, K, seed=seed + i), dim=-1) for i in (1, 2))
    beta = torch.sigmoid(draw(B, N, T, seed=seed + 4))
    decay = -torch.nn.functional.softplus(draw(B, N, T, width, seed=seed + 5)) if width else None
    leaves = [x.detach().requires_grad_() for x in (q, k, draw(B, N, T, V, seed=seed + 3), beta)]
    return leaves, None if decay is None else decay.detach().requires_grad_()


def loop(leaves, decay, state=None, starts=()):
    """One token after the other; the state is emptied at every t in `starts`."""
    out = []
    for t in range(leaves[0].shape[2]):
        state = None if t in starts else state
        here = [x[:, :, t : t + 1] for x in leaves]
        o, state = step(*here, None if decay is None else decay[:, :, t : t + 1], state)
        out.append(o)
    return torch.cat(out, 2), state


@pytest.mark.parametrize("width", [0, 1, K])
@pytest.mark.parametrize(("T", "chunk"), [(13, 4), (37, 64), (37, 20), (1, 64)])
def test_equals_the_recurrence_with_gradients(width, T, chunk):
    leaves, decay = make(T, width)
    start = draw(B, N, K, V, seed=9)
    inputs = [*leaves, start] if decay is None else [*leaves, decay, start]
    ours, last = chunked(*leaves, decay, start, chunk=chunk)
    theirs, wanted = loop(leaves, decay, start)
    assert_same(ours, theirs, inputs, atol=1e-11)
    assert_same(last, wanted, [x for x in inputs if x is not leaves[0]], atol=1e-11)


@pytest.mark.parametrize("width", [0, 1, K])
def test_documents_start_with_an_empty_state(width):
    leaves, decay = make(29, width)
    segments = torch.ones(B, 29, dtype=torch.long)
    segments[:, 6:] = 2
    segments[:, 21:] = 3
    ours, last = chunked(*leaves, decay, segments_BT=segments, chunk=8)
    theirs, wanted = loop(leaves, decay, starts=(6, 21))
    assert_same(ours, theirs, leaves, atol=1e-11)
    torch.testing.assert_close(last, wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("width", [0, 1, K])
def test_padding_leaves_the_state_alone(width):
    leaves, decay = make(11, width)
    real = torch.arange(11) < torch.tensor([[4], [11]])
    _, last = chunked(*leaves, decay, real_BT=real, chunk=4)
    short = [x[:1, :, :4] for x in leaves]
    _, wanted = loop(short, None if decay is None else decay[:1, :, :4])
    torch.testing.assert_close(last[:1], wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [1, K])
def test_strong_decay_stays_finite_with_its_gradients(width):
    """e^(-sum) of a chunk leaves the range of floats here: 64 tokens that each fade by e^-40."""
    leaves, _ = make(64, 0)
    leaves = [x.detach().float().requires_grad_() for x in leaves]
    decay = torch.full((B, N, 64, width), -40.0, requires_grad=True)
    ours, _ = chunked(*leaves, decay)
    assert_same(ours, loop(leaves, decay)[0], [*leaves, decay], atol=1e-5)


def test_a_decay_of_equal_channels_is_a_decay_of_the_head():
    leaves, decay = make(21, 1)
    one, _ = chunked(*leaves, decay, chunk=8)
    many, _ = chunked(*leaves, decay.expand(-1, -1, -1, K), chunk=8)
    torch.testing.assert_close(one, many, atol=1e-12, rtol=0)
    none, _ = chunked(*leaves, None, chunk=8)
    zero, _ = chunked(*leaves, torch.zeros(B, N, 21, K), chunk=8)
    torch.testing.assert_close(none, zero, atol=1e-12, rtol=0)


def test_orthonormal_keys_are_recalled_exactly_and_a_second_write_replaces_the_first():
    k = torch.eye(K, dtype=torch.float64).expand(1, 1, K, K)
    v = draw(1, 1, K, V).detach()
    k, v = torch.cat([k, k[:, :, :1]], 2), torch.cat([v, -3 * v[:, :, :1]], 2)  # the first key once more
    _, state = chunked(k, k, v, torch.ones(1, 1, K + 1, dtype=torch.float64), chunk=3)
    read = k[:, :, 1:] @ state
    torch.testing.assert_close(read, v[:, :, 1:], atol=1e-12, rtol=0)


def test_no_tensor_grows_with_the_square_of_the_row():
    T, chunk = 1024, 32
    leaves = [x.detach() for x in make(T, 0)[0]]
    with Largest() as watch:
        chunked(*leaves, None, chunk=chunk)
    assert watch.numbers <= 2 * B * N * T * chunk  # overlaps with keys and with queries


@pytest.mark.parametrize("form", ["naive_recurrent_kda", "naive_chunk_kda"])
def test_equals_fla_kda_with_gradients(form):
    leaves, decay = make(128, K)
    q, k, v, beta, g = (x.transpose(1, 2) for x in (*leaves, decay))
    theirs = getattr(fla("ops/kda/naive.py"), form)(q, k, v, g, beta, scale=1.0)[0]
    assert_same(chunked(*leaves, decay)[0], theirs.transpose(1, 2), [*leaves, decay], atol=2e-6)


@pytest.mark.parametrize("form", ["naive_recurrent_gated_delta_rule", "naive_chunk_gated_delta_rule"])
def test_equals_fla_gated_delta_rule_with_gradients(form):
    leaves, decay = make(128, 1)
    q, k, v, beta, g = (x.transpose(1, 2) for x in (*leaves, decay))
    theirs = getattr(fla("ops/gated_delta_rule/naive.py"), form)(q, k, v, beta=beta, g=g[..., 0], scale=1.0)[
        0
    ]
    assert_same(chunked(*leaves, decay)[0], theirs.transpose(1, 2), [*leaves, decay], atol=2e-6)


@pytest.mark.parametrize("form", ["delta_rule_recurrence", "delta_rule_chunkwise"])
def test_equals_fla_delta_rule_with_gradients(form):
    leaves, _ = make(128, 0)
    theirs = getattr(fla("ops/delta_rule/naive.py"), form)(*leaves)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = chunked(*leaves, None)[0] * K**-0.5
    assert_same(ours, theirs, leaves, atol=2e-6)
