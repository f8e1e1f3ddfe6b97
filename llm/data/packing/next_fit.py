"""Next-fit, the greedy packer of a stream: fill one row at a time; a piece that does not fit closes the row for good.

Equations   none
Source      Johnson 1973 (bin packing); the streaming baseline of every training loader
Cost        O(P) time for P pieces, one open row: works on a stream
Differs     from the source: nothing
Shapes      P pieces
"""

from dataclasses import dataclass

import numpy as np

from llm.data.packing.base import Strategy, one_open_row


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class NextFit(Strategy):
    """Pieces keep the order of the corpus, over rows too."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def assign(self, lengths_P: np.ndarray, capacity: int) -> np.ndarray:
        return one_open_row(lengths_P, capacity)


build = NextFit
