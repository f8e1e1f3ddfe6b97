"""grid: cuts rows into chunks that begin where documents begin.

Some mixers treat a token by its place in a chunk. A document must then get the same chunks whether it stands alone or
packed behind others, and a prompt the same whether it is read at once or in pieces: chunks are counted from the
start of the document, not of the row.

Equations   (1)-(2) in docs/nn/kernels/grid.md; comments below carry the same numbers.
Source      this project
Cost        O(T X) to move a tensor; at most C - 1 empty places per document (and where a row begins inside a chunk)
Shapes      B batch, T tokens, X any width, c chunks of C places
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.position.base import segment_positions


class Grid:
    """Where each token stands in a table of chunks [B, c, C]; no chunk holds tokens of two documents.

    number_Bc: which chunk of its document it is, from 0; slot_BT: the chunk each token stands in. Their first
    axis is 1 where all rows agree. Places that no token takes hold zeros.
    """

    def __init__(self, positions_BT: Tensor, C: int) -> None:
        """positions_BT: place of each token in its document, growing by 1 until it falls back to 0."""
        B, T = positions_BT.shape
        inside, number = positions_BT % C, positions_BT // C
        opens = inside == 0
        opens[:, 0] = True
        slot_BT = opens.cumsum(1) - 1  # (1)
        self.C, self.T, self.slot_BT = C, T, slot_BT
        self.chunks = int(slot_BT[:, -1].max()) + 1  # the only number the host must know
        rows = torch.arange(B, device=positions_BT.device)[:, None]
        self.place = ((rows * self.chunks + slot_BT) * C + inside).flatten()  # (2)
        self.number_Bc = number.new_zeros(B, self.chunks).scatter(1, slot_BT, number)

    def lay(self, x_BTX: Tensor) -> Tensor:
        """[B, T, ...] -> [B, c, C, ...]."""
        x = x_BTX.flatten(0, 1)
        table = x.new_zeros(x_BTX.shape[0] * self.chunks * self.C, *x.shape[1:])
        return table.index_copy(0, self.place, x).unflatten(0, (-1, self.chunks, self.C))

    def back(self, x_BcCX: Tensor) -> Tensor:
        """[B, c, C, ...] -> [B, T, ...]."""
        return x_BcCX.flatten(0, 2).index_select(0, self.place).unflatten(0, (-1, self.T))


class PlainGrid(Grid):
    """All rows are one document, read from its start: nothing has to move."""

    def __init__(self, T: int, C: int, device: torch.device) -> None:
        self.C, self.T, self.chunks = C, T, -(-T // C)
        self.number_Bc = torch.arange(self.chunks, device=device)[None]
        self.slot_BT = torch.arange(T, device=device)[None] // C

    def lay(self, x_BTX: Tensor) -> Tensor:
        after = (0, 0) * (x_BTX.dim() - 2) + (0, self.chunks * self.C - self.T)
        return F.pad(x_BTX, after).unflatten(1, (self.chunks, self.C))

    def back(self, x_BcCX: Tensor) -> Tensor:
        return x_BcCX.flatten(1, 2)[:, : self.T]


def make_grid(T: int, C: int, segments_BT: Tensor | None, device: torch.device) -> Grid:
    """The grid of whole rows. segments_BT: as in `Context`."""
    if segments_BT is None:
        return PlainGrid(T, C, device)
    return Grid(segment_positions(segments_BT), C)
