"""books: a Project Gutenberg plain-text book -> titled parts with whole paragraphs.

A printed page survives in such a file: lines of 70 characters, titles in capitals set off by blank lines,
CRLF, a byte order mark, `_emphasis_`, `[Illustration]`. `split_book` undoes the page and keeps the words.
What the blank lines and capitals mean differs from book to book; `Layout` says it (docs/data/books.md).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Heading = Literal["work", "section", "subtitle", ""]

_MAX_HEADING = 90  # characters; a longer line in capitals is shouting, not a title
_NUMBERED = re.compile(
    r"^(?:(?:CHAPTER|Chapter|VOLUME|Volume|BOOK|PART|SCENE|ACT)\s+(?:[IVXLC]+|\d+|THE\s+[A-Z]+)(?:\.?$|[.:]\s)"
    r"|[IVXLC]+\.?$|[IVXLC]+\.\s+\S)"
)
_NUMBER = re.compile(
    r"^(?:(?:CHAPTER|Chapter|VOLUME|Volume|BOOK|PART|SCENE|ACT)\s+(?:[IVXLC]+|\d+|THE\s+[A-Z]+)|[IVXLC]+)[.:]\s+(?=\S)"
)
_SMALL_WORDS = "a an and as at but by for from in is of on or that the to was who with"
_SMALL = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one book marks its works.

    work_gap: a title in capitals after at least so many blank lines starts a new work (a tale);
    0 = the book is one work (a novel) and headings only start its sections.
    titles: further lines that start a work although the rule does not see them.
    """

    work_gap: int = 0
    titles: tuple[str, ...] = ()


class Part(NamedTuple):
    """One titled piece of text. `section` is empty when the part is its whole work."""

    work: str
    section: str
    text: str


class _Block(NamedTuple):
    gap: int  # blank lines before it
    lines: list[str]


def decode(raw: bytes) -> str:
    """Bytes of a book -> text with plain newlines: UTF-8 with or without a byte order mark, else latin-1."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_book(text: str, *, title: str, layout: Layout) -> list[Part]:
    """Cut a decoded book into parts. `title` names the work where no heading does."""
    work, section = title, ""
    parts: list[tuple[str, str, list[str]]] = [(work, section, [])]
    after_heading = False
    for block in _blocks(_without_header(text)):
        heading = _heading(block, layout)
        if heading in ("work", "section"):
            words = _title(" ".join(block.lines))
            work, section = (words, "") if heading == "work" else (work, words)
            parts.append((work, section, []))
        elif not (heading == "subtitle" and after_heading) and (paragraph := _paragraph(block)):
            parts[-1][2].append(paragraph)
        after_heading = heading != ""
    kept = [(work, section, paragraphs) for work, section, paragraphs in parts if paragraphs]
    return list(_named(kept))


def _named(parts: list[tuple[str, str, list[str]]]) -> Iterator[Part]:
    """Give every part of a work of several parts a section name, and none to a whole work."""
    works = [work for work, _, _ in parts]
    for work, section, paragraphs in parts:
        whole = works.count(work) == 1
        yield Part(work, "" if whole else section or "Opening", "\n\n".join(paragraphs))


def _without_header(text: str) -> str:
    """Drop the `[Title by Author Year]` line that NLTK puts first."""
    return re.sub(r"\A\s*\[[^\]\n]*\][ \t]*\n", "", text)


def _blocks(text: str) -> Iterator[_Block]:
    """Runs of non-blank lines with the number of blank lines before each; the first counts as far apart."""
    gap, lines = 99, []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield _Block(gap, lines)
            gap, lines = 1, []
        else:
            gap += 1


def _heading(block: _Block, layout: Layout) -> Heading:
    words = " ".join(line.strip() for line in block.lines)
    if words in layout.titles:
        return "work"
    if len(block.lines) > 2 or len(words) > _MAX_HEADING:
        return ""
    if _NUMBERED.match(words):
        return "section"
    if not re.search(r"[A-Z]{2}", words) or words.upper() != words or words[0] in "\"'":
        return ""
    if layout.work_gap and block.gap >= layout.work_gap:
        return "work"
    return "section" if block.gap >= 2 else "subtitle"


def _title(words: str) -> str:
    """`CHAPTER I. Down the Rabbit-Hole` -> `Down the Rabbit-Hole`; `THE UGLY DUCKLING.` -> `The Ugly Duckling`."""
    words = _NUMBER.sub("", " ".join(words.split())).strip('"').rstrip(".,")
    if words.upper() != words or len(words) < 3:
        return words
    low = words.lower().split()
    return " ".join(w if w in _SMALL and i else _capital(w) for i, w in enumerate(low))


def _capital(word: str) -> str:
    """`weather-cock` -> `Weather-Cock`; a roman numeral stays in capitals."""
    if re.fullmatch(r"[ivxlc]+", word):
        return word.upper()
    return re.sub(r"(^|[-\"(])([a-z])", lambda match: match[1] + match[2].upper(), word)


def _paragraph(block: _Block) -> str:
    """Join printed lines into one paragraph; a block in which every line is indented is verse and keeps them."""
    lines = [" ".join(line.split()) for line in block.lines]
    verse = len(lines) > 1 and all(line[0].isspace() for line in block.lines)
    text = "\n".join(lines) if verse else " ".join(lines).replace("-- ", "--")
    text = re.sub(r"\[(?:Illustration[^\]]*|\d+)\]", "", text).replace("_", "").strip()
    return text if re.search(r"\w", text) else ""
