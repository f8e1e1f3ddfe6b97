"""Best-fit decreasing: longest pieces first, each into the fullest row that still has room for it.

Equations   (1)-(2) in docs/data/packing/best_fit.md; comments below carry the same numbers.
Source      Johnson 1973 (bin packing); for training rows: Krell et al. 2021, arXiv 2107.02027,
            Ding et al. 2024, arXiv 2404.10830
Cost        O(P) steps for P pieces on one integer of `capacity` bits; memory one number a piece
Differs     from the sources: the search structure is a bit set instead of a tree; the rows are the same
Shapes      P pieces
"""

from dataclasses import dataclass

import numpy as np

from llm.data.packing.base import Strategy


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class BestFit(Strategy):
    """Rows are numbered as they are opened, so the fullest come first; shuffling is the reader's task."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def assign(self, lengths_P: np.ndarray, capacity: int) -> np.ndarray:
        """Rows with free space s wait in `waiting[s]`; bit s of `spaces` is set where such a row waits."""
        rows_P = np.empty(len(lengths_P), dtype=np.int64)
        waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
        spaces = n_rows = 0
        order_P = np.argsort(-lengths_P.astype(np.int64), kind="stable")  # (1)
        for piece, length in zip(order_P.tolist(), lengths_P[order_P].tolist(), strict=True):
            enough = spaces >> length
            if enough:
                space = (
                    length + (enough & -enough).bit_length() - 1
                )  # (2) lowest set bit: smallest sufficient space
                row = waiting[space].pop()
                if not waiting[space]:
                    spaces ^= 1 << space
            else:
                row, space = n_rows, capacity
                n_rows += 1
            rows_P[piece] = row
            left = space - length
            if left:
                waiting[left].append(row)
                spaces |= 1 << left
        return rows_P


build = BestFit
