"""The convolution by shifted rows against torch.nn.functional.conv1d, whole rows and in pieces."""

import pytest
import torch
import torch.nn.functional as F

from llm.nn.kernels.short_conv import ShortConv

B, T, C = 2, 11, 5
SEGMENTS = torch.tensor([[1] * 3 + [2] * 1 + [3] * 7, [1] * 6 + [2] * 2 + [0] * 3])


def make(width=4, bias=False, seed=0):
    torch.manual_seed(seed)
    return ShortConv(C, width, bias).double()


def randn(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_conv1d(conv, x):
    weight = conv.filter_WC.t()[:, None]
    padded = F.pad(x.transpose(1, 2), (conv.width - 1, 0))
    return F.conv1d(padded, weight, conv.bias_C, groups=C).transpose(1, 2)


@pytest.mark.parametrize("length", [1, 2, T])
@pytest.mark.parametrize(("width", "bias"), [(4, False), (4, True), (3, True), (2, False), (1, True)])
def test_it_is_a_causal_conv1d_with_its_gradients(length, width, bias):
    conv, x = make(width, bias), randn(B, length, C).requires_grad_()
    ours, wanted, weights = conv(x), by_conv1d(conv, x), randn(B, length, C, seed=2)
    inputs = [x, *conv.parameters()]
    grads = [torch.autograd.grad((y * weights).sum(), inputs) for y in (ours, wanted)]
    for a, b in zip((ours, *grads[0]), (wanted, *grads[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_packed_row_is_its_documents_with_their_gradients():
    conv, x = make(bias=True), randn(B, T, C).requires_grad_()
    packed, weights = conv(x, SEGMENTS), randn(B, T, C, seed=2)
    alone = torch.zeros_like(packed)
    for row in range(B):
        for number in SEGMENTS[row].unique():
            where = SEGMENTS[row] == number
            alone[row, where] = by_conv1d(conv, x[row : row + 1, where])[0]
    inputs = [x, *conv.parameters()]
    grads = [torch.autograd.grad((y * weights).sum(), inputs) for y in (packed, alone)]
    for a, b in zip((packed, *grads[0]), (alone, *grads[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_pieces_of_a_row_are_the_row(width):
    conv, x = make(width, bias=True), randn(B, T, C)
    tail = conv.empty_tail(B, device=x.device, dtype=x.dtype)
    pieces = []
    for begin, end in ((0, 1), (1, 2), (2, 7), (7, 8), (8, 11)):
        y, tail = conv.step(x[:, begin:end], tail)
        assert tail.shape == (B, width - 1, C)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), conv(x), atol=1e-12, rtol=0)


def test_padding_of_a_short_row_leaves_its_tail_alone():
    conv, x = make(), randn(3, 6, C)
    start = randn(3, 3, C, seed=3)
    for lengths in ([2, 6, 0], [1, 4, 3]):
        real = torch.arange(6) < torch.tensor(lengths)[:, None]
        y, tail = conv.step(x.masked_fill(~real[..., None], 1e9), start, real)
        for row, n in enumerate(lengths):
            wanted, last = conv.step(x[row : row + 1, :n], start[row : row + 1])
            torch.testing.assert_close(y[row : row + 1, :n], wanted, atol=1e-12, rtol=0)
            torch.testing.assert_close(tail[row : row + 1], last, atol=0, rtol=0)


def test_the_tail_is_wide_and_keeps_narrow_inputs_exactly():
    conv, x = make().bfloat16(), randn(B, T, C).bfloat16()
    tail = conv.empty_tail(B, device=x.device, dtype=x.dtype)
    y, tail = conv.step(x, tail)
    assert (y.dtype, tail.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(tail, x[:, -3:].float())


def test_filters_start_within_the_bound_of_conv1d_and_are_elementwise():
    torch.manual_seed(0)
    conv = ShortConv(4096)
    bound = conv.filter_WC.abs().max().item()
    assert 0.49 < bound <= 0.5
    assert conv.filter_WC.elementwise
