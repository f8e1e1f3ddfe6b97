"""Sliding: windows of `size` tokens that overlap; what was read before is context, only the rest is scored.

Equations   (1)-(2) in docs/data/chunking/sliding.md; comments below carry the same numbers.
Source      evaluation with a sliding window: Baevski & Auli 2019, arXiv 1809.10853
Cost        size / (size - overlap) times the rows of kind fixed
Differs     from the source: the windows train, too
Shapes      n tokens to read
"""

from dataclasses import dataclass

from llm.data.chunking.base import Chunker, Chunks, check_overlap
from llm.data.token_text import TokenText


@dataclass(frozen=True, kw_only=True)
class Config:
    """overlap: tokens each later window reads again. min_len: the fewest tokens of the last window."""

    overlap: int
    min_len: int = 1

    def __post_init__(self) -> None:
        check_overlap(self.overlap)
        if self.min_len < 1:
            raise ValueError(f"min_len ({self.min_len}) must be positive")


class Sliding(Chunker):
    """A last window shorter than `min_len` begins earlier: more context, the same targets."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.overlap = config.overlap

    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        stride = size - self.overlap
        starts = range(0, max(n - self.overlap, 1), stride)  # (1)
        chunks = [(start, min(start + size, n)) for start in starts]
        start, end = chunks[-1]
        chunks[-1] = (max(0, min(start, end - min(self.config.min_len, size))), end)  # (2)
        return chunks


build = Sliding
