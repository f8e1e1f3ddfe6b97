"""Truncate: the beginning of a long document, and nothing after it.

Equations   none
Source      the usual treatment of long examples in fine-tuning; TRL's `pack_dataset(strategy="bfd")`
Cost        O(1)
Differs     nothing
Shapes      n tokens to read
"""

from dataclasses import dataclass

from llm.data.chunking.base import Chunker, Chunks
from llm.data.token_text import TokenText


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class Truncate(Chunker):
    """One chunk; the lost tokens are counted by the caller."""

    covers = False

    def __init__(self, config: Config) -> None:
        self.config = config

    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        return [(0, min(size, n))]


build = Truncate
