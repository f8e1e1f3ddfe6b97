"""Log-linear attention against its T x T form, the recurrence of the paper, and flash-linear-attention."""

import pytest
import torch

from llm.nn.kernels import log_linear
from llm.nn.kernels.grid import Grid, make_grid
from llm.nn.kernels.linear_attention import chunked as plain_chunked
from tests.oracles import Largest, assert_same, draw, fla

B, T, N, K, V, L = 2, 21, 3, 4, 5, 6
SEGMENTS = torch.tensor([[1] * 9 + [2] * 1 + [3] * 8 + [0] * 3, [4] * 21])


def parts(length=T, levels=L):
    decay = (-draw(B, length, N, seed=4).detach().exp()).requires_grad_()
    weight = draw(B, length, N, levels, seed=5).detach().abs().requires_grad_()
    shapes = ((B, length, N, K), (B, length, N, K), (B, length, N, V))
    return [*(draw(*shape, seed=i) for i, shape in enumerate(shapes)), decay, weight]


def matrix_form(q, k, v, decay, weight, segments=None):
    """P[t, s] = (q_t k_s) exp(sum of decays after s) lambda_t[level(t, s)], one entry after the other."""
    out = []
    for b in range(q.shape[0]):
        rows = []
        start = 0
        for t in range(q.shape[1]):
            if segments is not None and t > 0 and segments[b, t] != segments[b, t - 1]:
                start = t
            total = 0
            for s in range(start, t + 1):
                level = ((t - start) ^ (s - start)).bit_length()
                scale = decay[b, s + 1 : t + 1].sum(0).exp() * weight[b, t, :, level]
                total = total + ((q[b, t] * k[b, s]).sum(-1) * scale)[:, None] * v[b, s]
            rows.append(total)
        out.append(torch.stack(rows))
    return torch.stack(out)


def paper_recurrence(q, k, v, decay, weight, levels):
    """Carry, decay, insert, read: the states S^(0) .. S^(L) of section 3.2."""
    states = [torch.zeros(B, N, K, V, dtype=q.dtype) for _ in range(levels + 1)]
    out = []
    for t in range(q.shape[1]):
        if t > 0:
            b = (t & -t).bit_length() - 1
            states[b + 1] = sum(states[: b + 1])
            states[: b + 1] = [torch.zeros_like(states[0]) for _ in range(b + 1)]
        states = [state * decay[:, t, :, None, None].exp() for state in states]
        states[0] = k[:, t, :, :, None] * v[:, t, :, None, :]
        read = [weight[:, t, :, i, None] * (q[:, t, :, None] @ S).squeeze(2) for i, S in enumerate(states)]
        out.append(sum(read))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("chunk", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("packed", [False, True])
def test_chunked_is_the_matrix_form_with_its_gradients(chunk, packed):
    inputs = parts()
    segments = SEGMENTS if packed else None
    ours = log_linear.chunked(*inputs, make_grid(T, chunk, segments, inputs[0].device), T)
    assert_same(ours, matrix_form(*inputs, segments), inputs, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, 16])
def test_equals_fla_with_gradients(chunk):
    inputs = parts()
    ours = log_linear.chunked(*inputs, make_grid(T, chunk, None, inputs[0].device), T)
    theirs = fla("ops/log_linear_attn/naive.py").naive_log_linear_attn(*inputs)
    assert_same(ours, theirs, inputs, atol=1e-12)


def test_steps_are_the_recurrence_of_the_paper():
    q, k, v, decay, weight = (x.detach() for x in parts())
    counter, seen = torch.zeros(B, L - 1, N, K, V, dtype=q.dtype), torch.zeros(B, dtype=torch.long)
    out = []
    for t in range(T):
        o, counter = log_linear.step(q[:, t], k[:, t], v[:, t], decay[:, t], weight[:, t], counter, seen)
        out.append(o)
        seen = seen + 1
    ours = torch.stack(out, dim=1)
    torch.testing.assert_close(ours, paper_recurrence(q, k, v, decay, weight, L - 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(ours, matrix_form(q, k, v, decay, weight), atol=1e-12, rtol=0)
    digits = [int(state.abs().sum() > 0) for state in counter[0]]
    assert digits == [1, 0, 1, 0, 1]  # 21, the lowest digit first


@pytest.mark.parametrize("cut", [1, 4, 7, 16, 20])
def test_resuming_from_a_counter_is_reading_on(cut):
    inputs = [x.detach() for x in parts()]
    whole = matrix_form(*inputs)
    head, tail = [x[:, :cut] for x in inputs], [x[:, cut:] for x in inputs]
    empty = torch.zeros(B, L - 1, N, K, V, dtype=whole.dtype)
    places = torch.arange(T).expand(B, -1)
    counter = log_linear.count(*head[1:4], empty, places[:, :cut], torch.full((B,), cut))
    q, k, v, decay, weight = tail
    new = log_linear.chunked(*tail, Grid(places[:, cut:], 4), T)
    old = log_linear.resume(q, decay, weight, counter, places[:, cut:])
    torch.testing.assert_close(new + old, whole[:, cut:], atol=1e-12, rtol=0)
    after = log_linear.count(k, v, decay, counter, places[:, cut:], torch.full((B,), T))
    at_once = log_linear.count(*inputs[1:4], empty, places, torch.full((B,), T))
    torch.testing.assert_close(after, at_once, atol=1e-12, rtol=0)


def test_equal_weights_are_gated_linear_attention():
    q, k, v, decay, weight = parts()
    grid = make_grid(T, 4, None, q.device)
    ours = log_linear.chunked(q, k, v, decay, torch.ones_like(weight), grid, T)
    heads = [x.transpose(1, 2) for x in (q, k, v, decay)]
    assert_same(ours, plain_chunked(*heads)[0].transpose(1, 2), [q, k, v, decay], atol=1e-12)


def test_bit_length_is_that_of_python():
    x = torch.arange(1100)
    assert log_linear.bit_length(x).tolist() == [i.bit_length() for i in range(1100)]
    assert [log_linear.counter_levels(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [0, 1, 2, 2, 3, 10, 11]


def test_memory_grows_with_the_length_not_with_its_square():
    sizes = []
    for length in (256, 512):
        inputs = parts(length, 11)
        with Largest() as largest:
            grid = make_grid(length, 16, None, inputs[0].device)
            log_linear.chunked(*inputs, grid, length).sum().backward()
        sizes.append(largest.numbers)
    assert sizes[1] == 2 * sizes[0] < B * N * 512 * 512 / 4
