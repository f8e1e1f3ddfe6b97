"""The chunked form against the recurrence, token by token."""

import pytest
import torch

from llm.nn.kernels.linear_attention import chunked, step
from tests.oracles import Largest

B, G, R, T, K, V = 2, 2, 2, 13, 3, 5
N = G * R
SEGMENTS = torch.tensor([[1] * 3 + [2] * 6 + [3] * 1 + [4] * 3, [1] * 4 + [2] * 4 + [3] * 3 + [0] * 2])


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def parts(length=T):
    decay = -randn(B, N, length, seed=4).detach().exp()
    return (
        randn(B, G, length, K, seed=1),
        randn(B, G, length, K, seed=2),
        randn(B, N, length, V, seed=3),
        decay.requires_grad_(),
        randn(B, N, K, V, seed=5),
    )


def recurrence(q, k, v, decay, state, segments=None, real=None):
    """One token after the other, straight from the two equations."""
    out = []
    for t in range(q.shape[2]):
        if segments is not None and t > 0:
            new = (segments[:, t] != segments[:, t - 1])[:, None, None, None]
            state = state.masked_fill(new, 0)
        q_t, k_t = (x[:, :, t].repeat_interleave(R, dim=1) for x in (q, k))
        grown = state if decay is None else state * decay[:, :, t, None, None].exp()
        grown = grown + k_t[..., None] * v[:, :, t, None, :]
        state = grown if real is None else torch.where(real[:, t, None, None, None], grown, state)
        out.append((q_t[..., None] * state).sum(-2))
    return torch.stack(out, dim=2), state


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 13, 64])
@pytest.mark.parametrize("with_decay", [True, False])
@pytest.mark.parametrize("with_segments", [True, False])
def test_chunked_is_the_recurrence_with_its_gradients(chunk, with_decay, with_segments):
    q, k, v, decay, state = parts()
    decay = decay if with_decay else None
    segments = SEGMENTS if with_segments else None
    inputs = [x for x in (q, k, v, decay, state) if x is not None]
    ours = chunked(q, k, v, decay, state, segments_BT=segments, chunk=chunk)
    wanted = recurrence(q, k, v, decay, state, segments)
    weights = [randn(*x.shape, seed=9).detach() for x in wanted]
    grads = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(pair, weights, strict=True)), inputs)
        for pair in (ours, wanted)
    ]
    for a, b in zip((*ours, *grads[0]), (*wanted, *grads[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [2, 4, 64])
def test_no_state_is_an_empty_state(chunk):
    q, k, v, decay, state = parts()
    for a in (decay, None):
        ours = chunked(q, k, v, a, chunk=chunk)
        for x, y in zip(ours, chunked(q, k, v, a, torch.zeros_like(state), chunk=chunk), strict=True):
            torch.testing.assert_close(x, y, atol=0, rtol=0)


@pytest.mark.parametrize("chunk", [3, 64])
def test_padding_leaves_the_state_alone(chunk):
    q, k, v, decay, state = parts()
    real = torch.arange(T) < torch.tensor([[5], [13]])
    k, v = (x.detach().masked_fill(~real[:, None, :, None], float("nan")) for x in (k, v))
    o, after = chunked(q, k, v, decay, state, real_BT=real, chunk=chunk)
    clean = [x.nan_to_num() for x in (k, v)]
    wanted, last = recurrence(q, *clean, decay, state, real=real)
    torch.testing.assert_close(o[0, :, :5], wanted[0, :, :5], atol=1e-12, rtol=0)
    torch.testing.assert_close(after, last, atol=1e-12, rtol=0)


def test_steps_are_chunked_pieces_of_one_token():
    q, k, v, decay, state = parts(1)
    for a in (decay, None):
        for x, y in zip(step(q, k, v, a, state), chunked(q, k, v, a, state), strict=True):
            torch.testing.assert_close(x, y, atol=1e-12, rtol=0)


def test_pieces_of_a_row_are_the_row():
    q, k, v, decay, state = parts()
    whole, last = chunked(q, k, v, decay, state, chunk=4)
    outs = []
    for begin, end in ((0, 1), (1, 6), (6, 13)):
        piece = [x[:, :, begin:end] for x in (q, k, v, decay)]
        o, state = chunked(*piece, state, chunk=4)
        outs.append(o)
    torch.testing.assert_close(torch.cat(outs, dim=2), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-12, rtol=0)


def test_a_decay_that_all_rows_share_may_have_one_row():
    q, k, v, decay, _ = parts()
    one = decay[:1]
    o, state = chunked(q, k, v, one, segments_BT=SEGMENTS, chunk=4)
    wanted, last = chunked(q, k, v, one.expand(B, -1, -1), segments_BT=SEGMENTS, chunk=4)
    torch.testing.assert_close(o, wanted, atol=0, rtol=0)
    torch.testing.assert_close(state, last, atol=0, rtol=0)


def test_strong_decays_stay_finite():
    q, k, v, _, _ = (x.detach().float() for x in parts())
    decay = torch.full((B, N, T), -80.0).requires_grad_()  # e^(80 * 13) is no float
    o, _ = chunked(q, k, v, decay)
    o.sum().backward()
    assert decay.grad.isfinite().all()
    alone = (q * k).sum(-1).repeat_interleave(R, dim=1)[..., None] * v  # each token sees itself only
    torch.testing.assert_close(o, alone)


def test_bf16_keeps_a_float32_state():
    q, k, v, decay, _ = (x.detach() for x in parts())
    exact, state = chunked(q, k, v, decay, chunk=4)
    rounded = [x.bfloat16() for x in (q, k, v)]
    o, last = chunked(*rounded, decay.float(), chunk=4)
    assert (o.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert (o - exact).abs().max() < 2e-2 * exact.abs().max()
    assert (last - state).abs().max() < 2e-2 * state.abs().max()
    o, last = step(*(x[:, :, :1] for x in rounded), decay[:, :, :1].float(), torch.zeros_like(last))
    assert (o.dtype, last.dtype) == (torch.bfloat16, torch.float32)


def test_memory_grows_with_the_length_not_with_its_square():
    sizes = []
    for length in (256, 512):
        q, k, v, decay, _ = parts(length)
        with Largest() as largest:
            o, _ = chunked(q, k, v, decay, segments_BT=torch.ones(B, length), chunk=16)
            o.sum().backward()
        sizes.append(largest.numbers)
    assert sizes[0] <= B * N * 256 * 16
    assert sizes[1] == 2 * sizes[0]
