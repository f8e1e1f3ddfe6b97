"""FineWeb: drop pages whose lines are shaped like lists, menus and repeated snippets, not like paragraphs.

Equations   (1)-(4) in docs/data/filters/fineweb.md; comments below carry the same numbers
Source      Penedo et al. 2024 (FineWeb), arXiv 2406.17557, section 3.6; rule on newlines from its code (datatrove)
Cost        O(characters)
Differs     lines lose trailing blanks first, or a blank after the full stop would hide it; tokens by our own
            expression, not by spaCy. Limit of (3) as in the paper (0.1); the published code has 0.01
Shapes      none
"""

from collections.abc import Iterator
from dataclasses import dataclass

import regex

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.text_stats import Rule, check_fractions, duplicates, first_broken, share, tokens

_TERMINAL = regex.compile(r"\p{Sentence_Terminal}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits; a document leaves when a value lies below a `min_` or above a `max_`.

    short_line_chars: a line of at most so many characters is short.
    """

    min_terminal_lines_frac: float = 0.12
    short_line_chars: int = 30
    max_short_lines_frac: float = 0.67
    max_duplicate_line_chars_frac: float = 0.1
    max_newlines_per_word: float = 0.3

    def __post_init__(self) -> None:
        check_fractions(self)
        for name in ("short_line_chars", "max_newlines_per_word"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must not be negative")


class FineWeb(Filter):
    """The first rule that a document breaks names the reason."""

    reasons = ("empty", "few_terminal_lines", "short_lines", "duplicate_line_chars", "newlines")

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        broken = first_broken(self._rules(document.text))
        return drop(broken[0], document.text, broken[1]) if broken else keep(document.text)

    def _rules(self, text: str) -> Iterator[Rule]:
        limit, no_limit = self.config, float("inf")
        lines = [line.rstrip() for line in text.split("\n") if line.strip()]
        yield "empty", len(lines), 1, no_limit
        yield (
            "few_terminal_lines",
            share(lines, _is_terminated),
            limit.min_terminal_lines_frac,
            no_limit,
        )  # (1)
        yield "short_lines", share(lines, self._is_short), 0, limit.max_short_lines_frac  # (2)
        chars = len(text.replace("\n", ""))
        yield (
            "duplicate_line_chars",
            duplicates(lines)[1] / chars,
            0,
            limit.max_duplicate_line_chars_frac,
        )  # (3)
        yield "newlines", text.count("\n") / max(1, len(tokens(text))), 0, limit.max_newlines_per_word  # (4)

    def _is_short(self, line: str) -> bool:
        return len(line) <= self.config.short_line_chars


def _is_terminated(line: str) -> bool:
    return _TERMINAL.match(line[-1]) is not None


build = FineWeb
