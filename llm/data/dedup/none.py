"""None: no two documents are the same; the slot is switched off.

Equations   none
Source      none
Cost        nothing
Differs     nothing
Shapes      N documents
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.dedup.base import Dedup, Pairs, Texts, pair_array


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class NoDedup(Dedup):
    """Finds no pair."""

    def __init__(self, config: Config) -> None:
        del config

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        return np.zeros((len(texts), 0), dtype=np.uint64)

    def pairs(self, signatures_NW: NDArray[Any], texts: Texts) -> Pairs:
        return Pairs(rows_M2=pair_array([]))


build = NoDedup
