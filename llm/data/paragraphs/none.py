"""None: no paragraph may be removed; the slot is switched off.

Equations   none
Source      none
Cost        nothing
Differs     nothing
Shapes      P paragraphs of a text that may be removed, here 0
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm.data.paragraphs.base import Paragraphs


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class NoParagraphs(Paragraphs):
    """Finds no paragraph."""

    def __init__(self, config: Config) -> None:
        del config

    def hashes(self, text: str) -> NDArray[np.uint64]:
        return np.zeros(0, dtype=np.uint64)

    def without(self, text: str, repeated: Sequence[bool]) -> str:
        return text


build = NoParagraphs
