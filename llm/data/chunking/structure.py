"""Structure: cut Markdown at headings and code at top-level definitions, a fenced block only if it must be.

Equations   those of docs/data/chunking/base.md with the levels of `Structure.levels`
Source      fences and headings as in CommonMark 0.31, sections 4.2 and 4.5; LangChain's Markdown and code splitters
Cost        O(characters) to find the positions, O(positions) to fill chunks
Differs     from CommonMark: no setext headings, no fences inside lists and quotes
Shapes      n tokens to read
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from llm.data.chunking.base import Chunker, Chunks, check_overlap, cut_at, text_of
from llm.data.sentences import sentence_breaks
from llm.data.token_text import TokenText

Spans = list[tuple[int, int]]

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)\n?", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_LINES = re.compile(r"\n+")
_HEADINGS = [re.compile(rf"\n+(?= {{0,3}}#{{{rank}}}\s)") for rank in range(1, 7)]
# A line at column 0 that names something and opens it: `def f(x):`, `class A {`, `fn main() {`.
_DEFINITION = re.compile(
    r"\n+(?=(?:@.*\n)*(?:(?:export|default|pub|static|async|abstract|public|private)\s+)*"
    r"(?:def|class|function|func|fn|struct|enum|interface|impl|trait|module|namespace)\s+\w.*[(\[{:,]\s*$)",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """overlap: tokens each later chunk reads again, as context."""

    overlap: int = 0

    def __post_init__(self) -> None:
        check_overlap(self.overlap)


class Structure(Chunker):
    """Nothing inside a fenced block is a place to cut until the block alone is too long."""

    reads_text = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.overlap = config.overlap

    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        return cut_at(n, size, self.overlap, self.levels(text_of(text)))

    def levels(self, text: TokenText) -> list[np.ndarray]:
        """Positions, the most welcome first."""
        blocks = list(fences(text.text))
        definitions = [m.span() for m in _DEFINITION.finditer(text.text) if not _decorated(text.text, m)]
        blank = [match.span() for match in _BLANK_LINES.finditer(text.text)]
        lines = [match.span() for match in _LINES.finditer(text.text)]
        borders = [(max(0, place - 1), place) for block in blocks for place in block]
        outside = [[match.span() for match in heading.finditer(text.text)] for heading in _HEADINGS]
        outside += [definitions, blank + borders, lines, sentence_breaks(text.text)]
        return [
            *(text.positions(_without(breaks, blocks)) for breaks in outside),
            *(text.positions(breaks) for breaks in (definitions, blank, lines)),
            text.words(),
        ]


def fences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of fenced blocks with their fences; an unclosed one reaches to the end of the text."""
    start, fence = None, ""
    for match in _FENCE.finditer(text):
        mark, info = match[1], match[2]
        if start is None:
            if mark[0] == "~" or "`" not in info:
                start, fence = match.start(), mark
        elif mark[0] == fence[0] and len(mark) >= len(fence) and not info.strip():
            yield start, match.end()
            start = None
    if start is not None:
        yield start, len(text)


def _without(breaks: Iterable[tuple[int, int]], blocks: Spans) -> Spans:
    """The breaks that do not end inside a block."""
    ends = np.array([end for _, end in blocks], dtype=np.int64)
    kept = []
    for first, last in breaks:
        at = int(np.searchsorted(ends, last, side="right"))  # the first block that ends after the break
        if at == len(blocks) or last <= blocks[at][0]:
            kept.append((first, last))
    return kept


def _decorated(text: str, match: re.Match[str]) -> bool:
    """Whether the line before is a decorator, which belongs to the definition."""
    before = text.rfind("\n", 0, match.start()) + 1
    return text.startswith("@", before)


build = Structure
