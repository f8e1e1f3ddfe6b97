"""Fixed: a cut every `size` tokens, wherever that is.

Equations   (1) in docs/data/chunking/fixed.md; comments below carry the same numbers.
Source      the usual default, e.g. Brown et al. 2020 (GPT-3), arXiv 2005.14165, appendix B
Cost        O(chunks); no text is read
Differs     from cutting a stream of many documents: no chunk holds two documents
Shapes      n tokens to read
"""

from dataclasses import dataclass

from llm.data.chunking.base import Chunker, Chunks
from llm.data.token_text import TokenText


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose; for chunks that overlap: kind sliding."""


class Fixed(Chunker):
    """Every chunk but the last is full."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        return [(start, min(start + size, n)) for start in range(0, n, size)]  # (1)


build = Fixed
