"""The written-out backward passes against what autograd derives from the plain forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from llm.nn.activation import gelu, gelu_tanh, silu, silu_mul
from llm.nn.kernels import attention, fused
from llm.nn.kernels.attention import MatmulAttention, attend, attend_naive, full_mask
from llm.nn.kernels.fused import LinearCrossEntropy, RMSNormFunction, SiluMulFunction
from llm.nn.position._rotary import Rotate
from llm.nn.position.base import Shape
from llm.nn.position.rope import Config, RotaryPosition


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_matmul_attention_is_the_naive_form_and_its_gradients(monkeypatch, blocks):
    monkeypatch.setattr(attention, "BLOCKS", blocks)
    monkeypatch.setattr(attention, "MIN_CUT_LEN", 1)
    torch.manual_seed(0)
    q, k, v = randn(2, 6, 7, 4), randn(2, 3, 7, 4), randn(2, 3, 7, 4)
    mask = full_mask(q, None, None)
    torch.testing.assert_close(MatmulAttention.apply(q, k, v, mask), attend_naive(q, k, v, mask))
    assert gradcheck(lambda q, k, v: MatmulAttention.apply(q, k, v, mask), (q, k, v))
    weights = torch.randn(2, 6, 7, 4, dtype=torch.float64)
    ours = torch.autograd.grad((MatmulAttention.apply(q, k, v, mask) * weights).sum(), (q, k, v))
    theirs = torch.autograd.grad((attend_naive(q, k, v, mask) * weights).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_long_rows_take_the_sdpa_path_with_equal_results(monkeypatch):
    q, k, v = randn(1, 4, 9, 6), randn(1, 2, 9, 6), randn(1, 2, 9, 6)
    bias = torch.randn(4, 9, 9, dtype=torch.float64)
    short = [attend(q, k, v, mask=None, bias_NTS=b) for b in (None, bias)]
    monkeypatch.setattr(attention, "MATMUL_MAX_LEN", 8)
    for wanted, b in zip(short, (None, bias), strict=True):
        torch.testing.assert_close(attend(q, k, v, mask=None, bias_NTS=b), wanted, atol=1e-10, rtol=0)


def test_rms_norm_equals_torch_with_gradients():
    x, gain = randn(3, 5, 8), randn(8)
    torch.testing.assert_close(RMSNormFunction.apply(x, gain, 1e-6), F.rms_norm(x, (8,), gain, 1e-6))
    assert gradcheck(lambda x, g: RMSNormFunction.apply(x, g, 1e-6), (x, gain))


def test_rms_norm_of_a_strided_view_and_in_bf16():
    x = torch.randn(4, 6, 3, 8, dtype=torch.bfloat16)[:, :, 1:]
    gain = torch.rand(8, dtype=torch.bfloat16)
    exact = F.rms_norm(x.double(), (8,), gain.double(), 1e-6)
    ours = RMSNormFunction.apply(x, gain, 1e-6)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().max() < 2**-7 * exact.abs().max()


def test_silu_gate_equals_plain_form_with_gradients():
    x = randn(3, 10)
    torch.testing.assert_close(SiluMulFunction.apply(x), silu(x[:, :5]) * x[:, 5:])
    assert gradcheck(SiluMulFunction.apply, (x,))
    torch.testing.assert_close(silu_mul(x), F.silu(x[:, :5]) * x[:, 5:])


def test_activations_equal_torch_and_differ_as_stated():
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    torch.testing.assert_close(silu(x), F.silu(x))
    torch.testing.assert_close(gelu(x), F.gelu(x))
    torch.testing.assert_close(gelu_tanh(x), F.gelu(x, approximate="tanh"))
    assert 4.6e-4 < (gelu(x) - gelu_tanh(x)).abs().max() < 4.8e-4


@pytest.mark.parametrize("chunk_bytes", [1 << 26, 8 * 11 * 3])  # one chunk, and three rows a chunk
def test_linear_cross_entropy_equals_torch_with_gradients(monkeypatch, chunk_bytes):
    monkeypatch.setattr(fused, "LOGIT_BYTES", chunk_bytes)
    h, weight, targets = randn(8, 5), randn(11, 5), torch.randint(0, 11, (8,))
    ours = LinearCrossEntropy.apply(h, weight, targets)
    theirs = F.cross_entropy(h @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours * 0.3, (h, weight)),
        torch.autograd.grad(theirs * 0.3, (h, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_linear_cross_entropy_of_no_rows_is_zero():
    h, weight = randn(0, 5), randn(11, 5)
    loss = LinearCrossEntropy.apply(h, weight, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert weight.grad.abs().sum() == 0


def test_rotation_keeps_length_depends_on_distance_and_has_exact_gradients():
    rope = RotaryPosition(Config(base=100.0), Shape(d_model=8, widths=[8], max_len=40))
    x = randn(1, 2, 5, 8)

    def at(x, positions):
        return rope.rotate(x, rope.angles(torch.tensor(positions), x.dtype))

    y = at(x, range(5))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    q, k = randn(1, 1, 1, 8), randn(1, 1, 1, 8)
    near = (at(q, [7]) * at(k, [3])).sum()
    far = (at(q, [34]) * at(k, [30])).sum()
    torch.testing.assert_close(near, far)
    cos, sin = (table[:5] for table in rope.tables(8, torch.float64, torch.device("cpu")))
    assert gradcheck(lambda x: Rotate.apply(x, cos, sin), (x,))


def test_rope_angles_survive_a_cast_of_the_model_to_bf16():
    rope = RotaryPosition(Config(), Shape(d_model=4, widths=[4], max_len=600)).to(torch.bfloat16)
    cos, _ = rope.tables(4, torch.float32, torch.device("cpu"))
    assert math.isclose(float(cos[511, 0]), math.cos(511), abs_tol=1e-6)
