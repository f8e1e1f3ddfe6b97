"""Wrapped: all documents one after the other, cut wherever a row ends.

Equations   (1)-(2) in docs/data/packing/wrapped.md; comments below carry the same numbers.
Source      Brown et al. 2020 (GPT-3), arXiv 2005.14165, appendix B; TRL's `pack_dataset(strategy="wrapped")`
Cost        O(D + rows) array operations; rows are full but the last
Differs     from both: a row begins with the last token of the row before, so that no target is lost, and
            documents of a row do not see each other
Shapes      D documents, P pieces
"""

from dataclasses import dataclass

import numpy as np

from llm.data.packing.base import Cutter, one_open_row
from llm.data.pieces import Pieces


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class Wrapped(Cutter):
    """Rows and documents keep the order of the corpus."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def cut(self, lengths_D: np.ndarray, capacity: int) -> Pieces:
        """Every overlap of a document with a row, in the stream of all tokens."""
        ends_D = np.cumsum(lengths_D.astype(np.int64))
        step = capacity - 1
        n_rows = max(-(-(int(ends_D[-1]) - 1) // step), 1)
        row_starts = np.arange(n_rows) * step  # (1)
        row_ends = np.minimum(row_starts + capacity, ends_D[-1])
        first_R = np.searchsorted(ends_D, row_starts, side="right")  # the documents at both ends of each row
        last_R = np.searchsorted(ends_D, row_ends, side="left")
        counts_R = last_R - first_R + 1
        rows_P = np.repeat(np.arange(n_rows), counts_R)
        nth_P = np.arange(len(rows_P)) - np.repeat(np.cumsum(counts_R) - counts_R, counts_R)
        docs_P = first_R[rows_P] + nth_P
        doc_starts_P = ends_D[docs_P] - lengths_D[docs_P]
        starts_P = np.maximum(row_starts[rows_P], doc_starts_P)  # (2)
        lengths_P = np.minimum(row_ends[rows_P], ends_D[docs_P]) - starts_P
        pieces = Pieces(docs_P, starts_P - doc_starts_P, lengths_P, np.ones_like(lengths_P))
        return pieces.pick((lengths_P > 1) | (lengths_D[docs_P] == 1))  # one token alone predicts nothing

    def assign(self, lengths_P: np.ndarray, capacity: int) -> np.ndarray:
        """The pieces of a row fill it to the last token: the next piece is the first that does not fit."""
        return one_open_row(lengths_P, capacity)


build = Wrapped
