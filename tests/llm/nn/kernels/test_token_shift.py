"""The token before: against indexing, over documents, in pieces."""

import pytest
import torch

from llm.nn.kernels import token_shift
from tests.oracles import draw


def test_previous_is_the_token_before_and_nothing_at_the_first():
    x = draw(2, 5, 3)
    found = token_shift.previous(x)
    assert torch.equal(found[:, 1:], x[:, :-1])
    assert not found[:, 0].any()
    assert token_shift.previous(x[:, :1]).shape == (2, 1, 3)


def test_the_first_token_of_a_document_has_no_token_before():
    x = draw(1, 6, 3)
    found = token_shift.previous(x, torch.tensor([[1, 1, 2, 3, 3, 0]]))
    first = torch.tensor([True, False, True, True, False, True])
    assert not found[0, first].any()
    assert torch.equal(found[0, ~first], x[0, [0, 3]])


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_pieces_are_one_row(cut):
    x = draw(2, 6, 3).detach()
    last = token_shift.empty(2, 3, device=x.device, dtype=x.dtype)
    one, last = token_shift.step(x[:, :cut], last)
    two, last = token_shift.step(x[:, cut:], last)
    assert torch.equal(torch.cat([one, two], 1), token_shift.previous(x))
    assert torch.equal(last, x[:, -1:])


def test_the_last_token_that_counts_is_kept():
    x, before = draw(3, 4, 2).detach(), draw(3, 1, 2, seed=1).detach()
    real = torch.arange(4) < torch.tensor([[2], [0], [4]])
    _, last = token_shift.step(x, before, real)
    assert torch.equal(last[:, 0], torch.stack([x[0, 1], before[1, 0], x[2, 3]]))


def test_a_share_of_one_takes_the_token_and_of_none_the_one_before():
    x, before = draw(2, 4, 3).detach(), draw(2, 4, 3, seed=1).detach()
    itself, earlier, half = token_shift.mix(x, before, torch.tensor([[1.0], [0.0], [0.5]]).expand(3, 3))
    torch.testing.assert_close(itself, x)
    assert torch.equal(earlier, before)
    torch.testing.assert_close(half, (x + before) / 2)
