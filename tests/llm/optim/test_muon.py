"""Muon's own facts: singular values near 1, parts and batches change nothing but the grouping."""

import math

import pytest
import torch
from torch import nn

from llm.optim import muon


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (683, 256)])
def test_singular_values_land_near_one(shape):
    values = torch.linalg.svdvals(muon.orthogonalise(randn(1, *shape), 5)[0].float())
    assert values.max() < 1.3
    assert values.min() > 0.3  # the smallest of a square Gaussian matrix start near 0
    assert values.median() > 0.65


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_equals_torch_bit_for_bit_at_model_shapes(shape):
    from torch.optim._muon import _zeropower_via_newtonschulz as reference

    batch = randn(3, *shape)
    for ours, matrix in zip(muon.orthogonalise(batch, 5), batch, strict=True):
        assert torch.equal(ours, reference(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7))


def test_a_semi_orthogonal_gradient_is_only_rescaled():
    basis, _ = torch.linalg.qr(randn(12, 5))
    result = muon.orthogonalise(3.7 * basis[None], 5)[0].float()
    factor = (result * basis).sum() / (basis * basis).sum()
    torch.testing.assert_close(result, factor * basis, rtol=0, atol=2e-2)


def test_parts_are_orthogonalised_apart():
    rows = (8, 4, 4)
    whole = nn.Parameter(randn(16, 8))
    whole.parts = rows
    pieces = [nn.Parameter(piece.clone()) for piece in whole.detach().split(rows)]
    config = muon.Config(lr=0.05)
    one, three = muon.build(config, [whole]), muon.build(config, pieces)
    for step in range(3):
        grad = randn(16, 8, seed=step)
        whole.grad = grad
        for piece, part in zip(pieces, grad.split(rows), strict=True):
            piece.grad = part
        one.step()
        three.step()
    torch.testing.assert_close(
        whole.detach(), torch.cat([piece.detach() for piece in pieces]), rtol=0, atol=1e-6
    )


def test_parts_differ_from_one_matrix():
    plain, parted = nn.Parameter(randn(16, 8)), nn.Parameter(randn(16, 8))
    parted.parts = (8, 8)
    for param in (plain, parted):
        param.grad = randn(16, 8, seed=3)
        muon.build(muon.Config(lr=0.05), [param]).step()
    assert (plain - parted).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [(12,), (8, 4)])
def test_a_stack_is_stepped_matrix_by_matrix(rows):
    stack = nn.Parameter(randn(3, 12, 8))
    stack.parts = rows
    singles = [nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    for single in singles:
        single.parts = rows
    config = muon.Config(lr=0.05, scale="match_rms")
    one, three = muon.build(config, [stack]), muon.build(config, singles)
    for step in range(3):
        stack.grad = randn(3, 12, 8, seed=step)
        stack.grad[1] = 0  # an expert without tokens
        for single, grad in zip(singles, stack.grad, strict=True):
            single.grad = grad
        one.step()
        three.step()
    torch.testing.assert_close(stack.detach(), torch.stack([s.detach() for s in singles]), rtol=0, atol=1e-6)
    decayed = randn(3, 12, 8)[1] * (1 - 0.05 * 0.1) ** 3
    torch.testing.assert_close(stack[1].detach(), decayed)  # no gradient, no direction


def test_four_dimensions_are_no_matrices():
    with pytest.raises(ValueError, match=r"muon steps matrices, found shape \[1, 2, 3, 4\]"):
        muon.build(muon.Config(lr=0.05), [nn.Parameter(randn(1, 2, 3, 4))])


def test_parts_that_do_not_add_up_are_refused():
    param = nn.Parameter(randn(3, 12, 8))
    param.parts = (8, 8)
    with pytest.raises(ValueError, match=r"parts \(8, 8\) do not add up to 12 rows"):
        muon.build(muon.Config(lr=0.05), [param])


def test_match_rms_steps_are_as_large_as_adamw_steps():
    param = nn.Parameter(torch.zeros(64, 256))
    param.grad = randn(64, 256)
    muon.build(muon.Config(lr=1.0, scale="match_rms", weight_decay=0.0), [param]).step()
    assert float(param.detach().square().mean().sqrt()) == pytest.approx(0.2, abs=0.05)


def test_original_scale_grows_with_the_height():
    for shape in ((64, 16), (16, 64)):
        param = nn.Parameter(torch.zeros(shape))
        param.grad = randn(*shape)
        muon.build(muon.Config(lr=1.0, weight_decay=0.0), [param]).step()
        top = float(torch.linalg.matrix_norm(param.detach(), 2))
        assert top == pytest.approx(math.sqrt(max(1, shape[0] / shape[1])), rel=0.25)


def test_vectors_and_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        muon.build(muon.Config(lr=0.1), [nn.Parameter(torch.zeros(3))])
    wrong = nn.Parameter(torch.zeros(4, 4))
    wrong.parts = (3, 3)
    with pytest.raises(ValueError, match="add up to 4"):
        muon.build(muon.Config(lr=0.1), [wrong])
