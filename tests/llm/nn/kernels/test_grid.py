"""Chunks that begin where documents begin."""

import torch

from llm.nn.kernels.grid import Grid, make_grid


def test_documents_get_chunks_of_their_own():
    segments = torch.tensor([[1, 1, 1, 1, 1, 2, 3, 3, 3, 0], [7] * 10])
    x = torch.arange(1.0, 21).view(2, 10, 1)
    grid = make_grid(10, 4, segments, x.device)
    table = grid.lay(x)[..., 0]
    assert table[0].tolist() == [[1, 2, 3, 4], [5, 0, 0, 0], [6, 0, 0, 0], [7, 8, 9, 0], [10, 0, 0, 0]]
    assert table[1, :3].tolist() == [[11, 12, 13, 14], [15, 16, 17, 18], [19, 20, 0, 0]]
    assert table[1, 3:].eq(0).all()
    assert grid.number_Bc[0].tolist() == [0, 1, 0, 0, 0]
    assert grid.number_Bc[1, :3].tolist() == [0, 1, 2]
    assert torch.equal(grid.back(grid.lay(x)), x)


def test_a_row_may_begin_inside_a_chunk():
    positions = torch.tensor([[6, 7, 8], [0, 1, 2]])
    grid = Grid(positions, 4)
    table = grid.lay(torch.arange(1.0, 7).view(2, 3))
    assert table.tolist() == [[[0, 0, 1, 2], [3, 0, 0, 0]], [[4, 5, 6, 0], [0, 0, 0, 0]]]
    assert grid.number_Bc.tolist() == [[1, 2], [0, 0]]


def test_one_document_a_row_is_padded_only():
    x = torch.randn(2, 10, 3, 5)
    plain, general = make_grid(10, 4, None, x.device), make_grid(10, 4, torch.ones(2, 10), x.device)
    assert torch.equal(plain.lay(x), general.lay(x))
    assert torch.equal(plain.back(plain.lay(x)), x)
    assert torch.equal(plain.number_Bc.expand(2, -1), general.number_Bc)


def test_gradients_go_back_to_their_tokens():
    x = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    grid = make_grid(6, 2, torch.tensor([[1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 2, 2]]), x.device)
    assert torch.autograd.gradcheck(lambda x: grid.back(grid.lay(x) * 2), (x,))
