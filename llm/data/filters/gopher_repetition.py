"""Gopher repetition: drop documents in which lines, paragraphs or runs of words repeat themselves.

Equations   (1)-(3) in docs/data/filters/gopher_repetition.md; comments below carry the same numbers
Source      Rae et al. 2021 (Gopher), arXiv 2112.11446, appendix A1.1, table A1
Cost        O(W log W): one sort of the words, then of what repeats; the scan (3) visits only what repeats
Differs     nothing in rules and limits; details the paper leaves open as in the library datatrove. Tokens by our
            own expression, not by spaCy
Shapes      W tokens of a document
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.ngrams import Repeats, repeats
from llm.data.text_stats import Rule, check_fractions, duplicates, first_broken, numbered, tokens

_TOP = (2, 3, 4)
_DUPLICATED = (5, 6, 7, 8, 9, 10)
_PARAGRAPH_BREAK = re.compile(r"\n{2,}")
_LINE_BREAK = re.compile(r"\n+")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits: a document leaves when a fraction lies above. `_chars_frac` is of all characters of the text.

    max_top_ngram_chars: for n = 2, 3, 4. max_duplicate_ngram_chars: for n = 5 … 10.
    """

    max_duplicate_paragraphs_frac: float = 0.3
    max_duplicate_paragraph_chars_frac: float = 0.2
    max_duplicate_lines_frac: float = 0.3
    max_duplicate_line_chars_frac: float = 0.2
    max_top_ngram_chars: tuple[float, ...] = (0.2, 0.18, 0.16)
    max_duplicate_ngram_chars: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    def __post_init__(self) -> None:
        check_fractions(self)
        for name, sizes in (("max_top_ngram_chars", _TOP), ("max_duplicate_ngram_chars", _DUPLICATED)):
            if len(getattr(self, name)) != len(sizes):
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must hold {len(sizes)} limits, for n = {sizes[0]} to {sizes[-1]}"
                )


class GopherRepetition(Filter):
    """The first rule that a document breaks names the reason."""

    reasons = (
        "empty",
        "duplicate_paragraphs",
        "duplicate_paragraph_chars",
        "duplicate_lines",
        "duplicate_line_chars",
        *(f"top_{n}_gram" for n in _TOP),
        *(f"duplicate_{n}_grams" for n in _DUPLICATED),
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        broken = first_broken(self._rules(document.text))
        return drop(broken[0], document.text, broken[1]) if broken else keep(document.text)

    def _rules(self, text: str) -> Iterator[Rule]:
        limit = self.config
        yield "empty", len(text), 1, float("inf")
        for name, items, most, most_chars in (
            (
                "paragraph",
                _PARAGRAPH_BREAK.split(text.strip()),
                limit.max_duplicate_paragraphs_frac,
                limit.max_duplicate_paragraph_chars_frac,
            ),
            (
                "line",
                _LINE_BREAK.split(text),
                limit.max_duplicate_lines_frac,
                limit.max_duplicate_line_chars_frac,
            ),
        ):
            count, chars = duplicates(items)
            yield f"duplicate_{name}s", count / len(items), 0, most  # (1)
            yield f"duplicate_{name}_chars", chars / len(text), 0, most_chars
        ids_W, lengths_W = numbered(tokens(text))
        found = {each.n: each for each in repeats(ids_W, np.zeros_like(ids_W), _DUPLICATED[-1], within=True)}
        for n, highest in zip(_TOP, limit.max_top_ngram_chars, strict=True):
            yield f"top_{n}_gram", top_ngram_chars(found[n], lengths_W) / len(text), 0, highest
        for n, highest in zip(_DUPLICATED, limit.max_duplicate_ngram_chars, strict=True):
            yield f"duplicate_{n}_grams", duplicate_ngram_chars(found[n], lengths_W) / len(text), 0, highest


def top_ngram_chars(found: Repeats, lengths_W: NDArray[np.int64]) -> int:
    """Characters of the most frequent n-gram, spaces between its words included, times its occurrences (2).

    Of equally frequent ones the first counts; where none repeats, that is the beginning of the text.
    """
    n = found.n
    if len(lengths_W) < n:
        return 0
    if len(found.starts_R) == 0:
        return int(lengths_W[:n].sum()) + n - 1
    _, first, counts = np.unique(found.names_R, return_index=True, return_counts=True)
    best = np.lexsort((first, -counts))[0]
    start = found.starts_R[first[best]]
    return (int(lengths_W[start : start + n].sum()) + n - 1) * int(counts[best])


def duplicate_ngram_chars(found: Repeats, lengths_W: NDArray[np.int64]) -> int:
    """Characters inside n-grams seen before, read from left to right without counting a word twice (3).

    A repeated n-gram is counted and skipped whole; what begins inside it is neither counted nor remembered.
    """
    ends = np.concatenate(([0], np.cumsum(lengths_W)))
    seen: set[int] = set()
    chars = free = 0  # free: the first word not yet counted
    for start, name in zip(found.starts_R.tolist(), found.names_R.tolist(), strict=True):
        if start < free:
            continue
        if name in seen:
            free = start + found.n
            chars += int(ends[free] - ends[start])
        seen.add(name)
    return chars


build = GopherRepetition
