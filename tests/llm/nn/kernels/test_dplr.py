"""The chunked diagonal-plus-low-rank rule against its recurrence and against flash-linear-attention's."""

import pytest
import torch
import torch.nn.functional as F

from llm.nn.kernels import delta_rule
from llm.nn.kernels.dplr import CHUNK, RANGE, chunked, step
from tests.oracles import Largest, assert_same, draw, fla

B, N, K, V = 2, 3, 5, 7


def make(T, seed=0, dtype=torch.float64):
    """r, k, v, probe, push and log-decays as RWKV-7 makes them: push = -probe at a rate in (0, 1)."""
    r, k, v = (draw(B, N, T, width, seed=seed + i, dtype=dtype) for i, width in enumerate((K, K, V)))
    direction = F.normalize(draw(B, N, T, K, seed=seed + 4, dtype=dtype), dim=-1)
    rate = torch.sigmoid(draw(B, N, T, K, seed=seed + 5, dtype=dtype))
    decay = -0.6 * torch.sigmoid(draw(B, N, T, K, seed=seed + 6, dtype=dtype))
    return [x.detach().requires_grad_() for x in (r, k, v, -direction, direction * rate, decay)]


def loop(leaves, state=None, starts=()):
    """One token after the other; the state is emptied at every t in `starts`."""
    out, empty = [], leaves[0].new_zeros(B, N, K, V)
    state = empty if state is None else state
    for t in range(leaves[0].shape[2]):
        state = empty if t in starts else state
        o, state = step(*(x[:, :, t : t + 1] for x in leaves), state)
        out.append(o)
    return torch.cat(out, 2), state


@pytest.mark.parametrize(("T", "chunk"), [(13, 4), (37, 64), (37, 20), (1, 64)])
def test_equals_the_recurrence_with_gradients(T, chunk):
    leaves, start = make(T), draw(B, N, K, V, seed=9)
    ours, last = chunked(*leaves, start, chunk=chunk)
    theirs, wanted = loop(leaves, start)
    assert_same(ours, theirs, [*leaves, start], atol=1e-11)
    assert_same(last, wanted, [*leaves[1:], start], atol=1e-11)


def test_documents_start_with_an_empty_state():
    leaves = make(29)
    segments = torch.ones(B, 29, dtype=torch.long)
    segments[:, 6:] = 2
    segments[:, 21:] = 3
    ours, last = chunked(*leaves, segments_BT=segments, chunk=8)
    theirs, wanted = loop(leaves, starts=(6, 21))
    assert_same(ours, theirs, leaves, atol=1e-11)
    torch.testing.assert_close(last, wanted, atol=1e-11, rtol=0)


def test_padding_leaves_the_state_alone():
    leaves = make(11)
    real = torch.arange(11) < torch.tensor([[4], [11]])
    _, last = chunked(*leaves, real_BT=real, chunk=4)
    _, wanted = loop([x[:, :, :4] for x in leaves])
    torch.testing.assert_close(last[:1], wanted[:1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [CHUNK, 128])
def test_the_strongest_decay_of_a_chunk_is_exact_in_float32(chunk):
    """Every channel fades by e^(-RANGE) within a chunk: the split exponents are e^80 and e^-80."""
    leaves = [x.detach().requires_grad_() for x in make(2 * chunk, dtype=torch.float32)]
    leaves[-1] = torch.full_like(leaves[-1], -RANGE / chunk).requires_grad_()
    assert_same(chunked(*leaves, chunk=chunk)[0], loop(leaves)[0], leaves, atol=1e-5)


def test_a_probe_along_the_faded_key_makes_it_the_delta_rule():
    """(I - b k k^T) Diag(e^a) is Diag(e^a) - (b k) (e^a k)^T."""
    r, k, v, _, _, decay = make(21)
    k, beta = F.normalize(k, dim=-1), torch.sigmoid(draw(B, N, 21, seed=8))
    scaled = beta[..., None] * k
    ours, _ = chunked(r, scaled, v, -k * decay.exp(), scaled, decay, chunk=8)
    theirs, _ = delta_rule.chunked(r, k, v, beta, decay, chunk=8)
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_no_tensor_grows_with_the_square_of_the_row():
    T, chunk = 1024, 32
    with Largest() as watch:
        chunked(*(x.detach() for x in make(T)), chunk=chunk)
    assert watch.numbers <= 4 * B * N * T * chunk  # probes and reads, pushes and keys


def test_equals_fla_with_gradients():
    leaves = make(96, dtype=torch.float32)
    r, k, v, probe, push, decay = leaves
    theirs, _ = fla("ops/generalized_delta_rule/dplr/naive.py").dplr_recurrence(r, k, v, probe, push, decay)
    assert_same(chunked(*leaves)[0] * K**-0.5, theirs, leaves, atol=2e-6)
