"""Gopher quality: ten rules on words, symbols, lines and stop words that tell prose from other web pages.

Equations   the table in docs/data/filters/gopher_quality.md
Source      Rae et al. 2021 (Gopher), arXiv 2112.11446, appendix A1.1
Cost        O(characters)
Differs     nothing in rules and limits; where the paper leaves a choice (are punctuation marks words? does `The`
            count as `the`?) it is the library datatrove's. Tokens by our own expression, not by spaCy
Shapes      none
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.text_stats import (
    ELLIPSIS,
    ENDS_IN_ELLIPSIS,
    Rule,
    check_fractions,
    first_broken,
    has_letter,
    is_word,
    share,
    tokens,
)
from llm.data.words import words

_STOP_WORDS = tuple(words("the be to of and that have with"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits; a document leaves when a value lies below a `min_` or above a `max_`. Words are English tokens."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word: float = 3.0
    max_mean_word: float = 10.0
    max_hash_frac: float = 0.1
    max_ellipsis_frac: float = 0.1
    max_bullet_lines_frac: float = 0.9
    max_ellipsis_lines_frac: float = 0.3
    min_letter_words_frac: float = 0.8
    min_stop_words: int = 2
    stop_words: tuple[str, ...] = _STOP_WORDS

    def __post_init__(self) -> None:
        check_fractions(self)
        if self.min_words > self.max_words or self.min_mean_word > self.max_mean_word:
            raise ValueError(
                f"min_words ({self.min_words}) must not exceed max_words ({self.max_words}), nor min_mean_word "
                f"({self.min_mean_word}) max_mean_word ({self.max_mean_word})"
            )


class GopherQuality(Filter):
    """The first rule that a document breaks names the reason."""

    reasons = (
        "too_short",
        "too_long",
        "words_too_short",
        "words_too_long",
        "hashes",
        "ellipses",
        "bullets",
        "ellipsis_lines",
        "no_letters",
        "no_stop_words",
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        broken = first_broken(self._rules(document.text))
        return drop(broken[0], document.text, broken[1]) if broken else keep(document.text)

    def _rules(self, text: str) -> Iterator[Rule]:
        """In the order of the reasons; the mean length is of words, other shares are of words and punctuation."""
        limit, no_limit = self.config, float("inf")
        found = tokens(text)
        n_tokens = max(1, len(found))
        lengths = [len(token) for token in found if is_word(token)]
        yield "too_short", len(lengths), limit.min_words, no_limit
        yield "too_long", len(lengths), 0, limit.max_words
        mean_word = sum(lengths) / max(1, len(lengths))
        yield "words_too_short", mean_word, limit.min_mean_word, no_limit
        yield "words_too_long", mean_word, 0, limit.max_mean_word
        yield "hashes", text.count("#") / n_tokens, 0, limit.max_hash_frac
        yield "ellipses", len(ELLIPSIS.findall(text)) / n_tokens, 0, limit.max_ellipsis_frac
        lines = text.splitlines()
        yield "bullets", share(lines, _has_bullet), 0, limit.max_bullet_lines_frac
        yield "ellipsis_lines", share(lines, ENDS_IN_ELLIPSIS.match), 0, limit.max_ellipsis_lines_frac
        yield "no_letters", share(found, has_letter), limit.min_letter_words_frac, no_limit
        yield "no_stop_words", len(set(limit.stop_words).intersection(found)), limit.min_stop_words, no_limit


def _has_bullet(line: str) -> bool:
    return line.lstrip().startswith(("•", "-"))


build = GopherQuality
