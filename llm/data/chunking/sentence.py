"""Sentence: as many whole sentences as fit.

Equations   those of docs/data/chunking/base.md with one level
Source      greedy filling; the sentences of llm/data/sentences.py
Cost        O(characters) to find sentences, O(sentences) to fill chunks
Differs     nothing
Shapes      n tokens to read
"""

from dataclasses import dataclass

from llm.data.chunking.base import Chunker, Chunks, check_overlap, cut_at, text_of
from llm.data.token_text import TokenText


@dataclass(frozen=True, kw_only=True)
class Config:
    """overlap: tokens each later chunk reads again, as context."""

    overlap: int = 0

    def __post_init__(self) -> None:
        check_overlap(self.overlap)


class Sentence(Chunker):
    """A sentence longer than a chunk is cut every `size` tokens."""

    reads_text = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.overlap = config.overlap

    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        return cut_at(n, size, self.overlap, [text_of(text).sentences()])


build = Sentence
