"""base: the interface of a packing strategy.

A strategy decides which pieces share a row, from their lengths alone. Before it, documents are cut into pieces
by a chunker, or by the strategy itself if it is a `Cutter`; after it, `llm/data/pack.py` writes rows.

Shapes      D documents, P pieces
"""

from abc import ABC, abstractmethod

import numpy as np

from llm.data.pieces import Pieces


class Strategy(ABC):
    """Assigns pieces to rows of equal capacity."""

    @abstractmethod
    def assign(self, lengths_P: np.ndarray, capacity: int) -> np.ndarray:
        """Row number of each piece, int64 [P], rows counted from 0 without gaps.

        lengths_P: tokens of each piece, 1 to `capacity`. The pieces of a row never exceed `capacity`.
        """


class Cutter(Strategy):
    """A strategy that cuts documents itself, because where it cuts depends on the rows."""

    @abstractmethod
    def cut(self, lengths_D: np.ndarray, capacity: int) -> Pieces:
        """Pieces of all documents, in order, none longer than `capacity`.

        Each target, which is any token of a document but its first, lies in one piece after that one's context.
        """


def one_open_row(lengths_P: np.ndarray, capacity: int) -> np.ndarray:
    """Row numbers when a piece that does not fit closes the row for good."""
    row, free = -1, 0
    rows = []
    for length in lengths_P.tolist():
        if length > free:
            row, free = row + 1, capacity
        free -= length
        rows.append(row)
    return np.array(rows, dtype=np.int64)
