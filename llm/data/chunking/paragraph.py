"""Paragraph: cut at blank lines; a paragraph that is too long at lines, then sentences, words, tokens.

Equations   those of docs/data/chunking/base.md with four levels
Source      the recursive character splitter of LangChain (2022), in tokens instead of characters
Cost        O(characters) to find the positions, O(positions) to fill chunks
Differs     from LangChain: sizes are tokens, sentences are a level, chunks cover the text exactly
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


class Paragraph(Chunker):
    """Chunks end where paragraphs do, as long as a paragraph fits."""

    reads_text = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.overlap = config.overlap

    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        text = text_of(text)
        levels = [text.blank_lines(), text.lines(), text.sentences(), text.words()]
        return cut_at(n, size, self.overlap, levels)


build = Paragraph
