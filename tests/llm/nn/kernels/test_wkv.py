"""The average of RWKV-4 in two short loops, against its recurrence, its definition and transformers."""

import pytest
import torch

from llm.nn.kernels.wkv import LinearScan, empty, scan, step, wkv
from tests.oracles import Largest, assert_same, draw

B, D = 2, 5
CPU = torch.device("cpu")


def make(T, seed=0, scale=2.0):
    """Keys that differ by factors of e^4, values, rates above 0 and the bonus of a token itself."""
    k = draw(B, T, D, seed=seed).detach() * scale
    rate = draw(D, seed=seed + 1).detach().exp()
    return [
        x.requires_grad_() for x in (k, draw(B, T, D, seed=seed + 2).detach(), rate, draw(D, seed=3).detach())
    ]


def nothing(dtype=torch.float64):
    return empty(B, D, device=CPU, dtype=dtype)


def loop(leaves, state, starts=()):
    """One token after the other; everything is forgotten at every t in `starts`."""
    k, v, rate, bonus = leaves
    out = []
    for t in range(k.shape[1]):
        y, state = step(k[:, t : t + 1], v[:, t : t + 1], rate, bonus, nothing() if t in starts else state)
        out.append(y)
    return torch.cat(out, 1), state


@pytest.mark.parametrize("T", [1, 2, 3, 16, 17, 50])
def test_equals_the_recurrence_with_gradients(T):
    leaves, start = make(T), loop(make(4, seed=7), nothing())[1].detach()
    ours, last = wkv(*leaves, start)
    theirs, wanted = loop(leaves, start)
    used = (
        leaves if T > 1 else [x for x in leaves if x is not leaves[2]]
    )  # nothing fades before the first output
    assert_same(ours, theirs, used, atol=1e-11)
    torch.testing.assert_close(last[:, :2] * last[:, 2:].exp(), wanted[:, :2] * wanted[:, 2:].exp())
    assert_same(last[:, 0] / last[:, 1], wanted[:, 0] / wanted[:, 1], leaves[:3], atol=1e-11)


def test_equals_the_sum_it_stands_for():
    k, v, rate, bonus = leaves = make(12)
    wanted = []
    for t in range(12):
        age = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        weights = torch.cat([k[:, :t] - age * rate, (k[:, t] + bonus)[:, None]], 1).softmax(1)
        wanted.append((weights * v[:, : t + 1]).sum(1))
    assert_same(wkv(*leaves, nothing())[0], torch.stack(wanted, 1), leaves, atol=1e-11)


def test_documents_start_with_nothing():
    leaves = make(29)
    segments = torch.ones(B, 29, dtype=torch.long)
    segments[:, 6:] = 2
    segments[:, 21:] = 3
    ours, last = wkv(*leaves, nothing(), segments_BT=segments)
    theirs, wanted = loop(leaves, nothing(), starts=(6, 21))
    assert_same(ours, theirs, leaves, atol=1e-11)
    torch.testing.assert_close(last, wanted)


def test_padding_leaves_the_state_alone_and_finite():
    leaves = make(11)
    real = torch.arange(11) < torch.tensor([[4], [0]])
    y, last = wkv(*leaves, nothing(), real_BT=real)
    assert torch.isfinite(y).all()
    torch.testing.assert_close(
        last[0], loop([x[:, :4] if x.ndim == 3 else x for x in leaves], nothing())[1][0]
    )
    assert torch.equal(last[1], nothing()[1])


def test_keys_that_leave_the_range_of_floats_are_averaged():
    leaves = [x.detach().float().requires_grad_() for x in make(40, scale=400.0)]
    y, _ = wkv(*leaves, nothing(torch.float32))
    y.sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)
    assert y.abs().max() <= leaves[1].abs().max()  # an average


def test_scan_in_both_arithmetics():
    keep, new, state = draw(B, 23, D).detach(), draw(B, 23, D, seed=1).detach(), draw(B, D, seed=2).detach()
    sums, tops, plus, most = state, state, [], []
    for t in range(23):
        sums, tops = keep[:, t] * sums + new[:, t], torch.maximum(keep[:, t] + tops, new[:, t])
        plus.append(sums)
        most.append(tops)
    torch.testing.assert_close(scan(keep, new, state), torch.stack(plus, 1))
    found = scan(keep, new, state, times=torch.add, plus=torch.maximum)
    torch.testing.assert_close(found, torch.stack(most, 1))


def test_gradients_of_the_scan_are_those_of_finite_differences():
    inputs = [draw(B, 7, 3), draw(B, 7, 2, 3, seed=1), draw(B, 2, 3, seed=2)]
    assert torch.autograd.gradcheck(LinearScan.apply, inputs)


def test_no_tensor_is_larger_than_both_sums():
    leaves = [x.detach() for x in make(1024)]
    with Largest() as watch:
        wkv(*leaves, nothing())
    assert watch.numbers <= 2 * B * 1024 * D


def test_equals_transformers_with_gradients():
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    k, v, rate, bonus = make(40)
    log_rate = rate.detach().log().requires_grad_()
    theirs, state = rwkv_linear_attention_cpu(log_rate, bonus, k, v, return_state=True)
    ours, last = wkv(k, v, log_rate.exp(), bonus, nothing())
    assert_same(ours, theirs, [k, v, log_rate, bonus], atol=2e-6)  # it computes in float32
    for mine, yours in zip(last.unbind(1), state, strict=True):
        torch.testing.assert_close(mine, yours.double(), atol=1e-5, rtol=1e-5)
