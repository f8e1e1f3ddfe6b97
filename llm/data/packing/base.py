"""base: the interface of a packing strategy.

A strategy decides which pieces share a row, from their lengths alone; `llm/data/pack.py` cuts documents into
pieces before and writes the rows after.
"""

from abc import ABC, abstractmethod

import numpy as np


class Strategy(ABC):
    """Assigns pieces to rows of equal capacity."""

    @abstractmethod
    def assign(self, lengths_P: np.ndarray, capacity: int) -> np.ndarray:
        """Row number of each piece, int64 [P], rows counted from 0 without gaps.

        lengths_P: tokens of each piece, 1 to `capacity`. The pieces of a row never exceed `capacity`.
        """
