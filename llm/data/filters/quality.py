"""Quality: rules about length, words, lines and repetition that real prose and real talk obey.

Equations   (1)-(5) in docs/data/filters/quality.md
Source      Rae et al. 2021 (Gopher), arXiv 2112.11446, appendix A1.1; Penedo et al. 2024, arXiv 2406.17557
Cost        O(words) per document
Differs     limits measured on tales and chats; speaker marks `A:` are no words; duplicate n-grams count the
            words they cover; strong swear words drop documents of the kinds named in the Config
Shapes      W words of a document
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.ngrams import repeats
from llm.data.text_stats import (
    ENDS_IN_ELLIPSIS,
    Rule,
    duplicates,
    first_broken,
    has_letter,
    numbered,
    share,
)
from llm.data.words import without_speakers, words

_ELLIPSES = re.compile(r"\.{3,}|…")  # a long row of dots is one
_BULLET = re.compile(r"^[•‣●○▪*-]\s")
_STOP_WORDS = frozenset(words("the be to of and that have with i you a it is"))
_SWEAR_WORDS = frozenset(
    words(
        "fuck fucks fucked fucker fuckers fuckin fucking motherfucker motherfuckers motherfucking shit shits shitty "
        "shitting bullshit bitch bitches cunt cunts asshole assholes whore whores slut sluts dickhead cocksucker "
        "nigger niggers nigga niggas faggot faggots"
    )
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits; a document leaves when a value lies below a `min_` or above a `max_`.

    Fractions are of words or lines; `_chars_frac` is of the characters of all words.
    min_words_for_repetition: shorter documents are not judged by the three rules about repetition.
    swear_kinds: document kinds in which strong swear words are counted.
    by_kind: document kind -> limits of its own in place of these, as `{poetry: {min_stop_words: 0}}`.
    """

    min_words: int = 10
    max_words: int = 100_000
    min_mean_word: float = 2.5
    max_mean_word: float = 10.0
    max_symbol_frac: float = 0.1
    max_bullet_lines_frac: float = 0.9
    max_ellipsis_lines_frac: float = 0.4
    min_letter_words_frac: float = 0.8
    min_stop_words: int = 1
    min_words_for_repetition: int = 100
    max_duplicate_lines_frac: float = 0.5
    max_common_ngram_chars_frac: float = 0.2
    max_duplicate_ngram_chars_frac: float = 0.35
    max_swear_words: int = 0
    swear_kinds: tuple[str, ...] = ("chat",)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {limit.name for limit in fields(self) if limit.name.startswith(("min_", "max_"))}
        for kind, own in self.by_kind.items():
            if unknown := sorted(own.keys() - known):
                raise ValueError(
                    f"by_kind.{kind}: no such limit ({', '.join(unknown)}); limits: {', '.join(sorted(known))}"
                )


class Quality(Filter):
    """The first rule that a document breaks names the reason."""

    reasons = (
        "too_short",
        "too_long",
        "words_too_short",
        "words_too_long",
        "symbols",
        "bullets",
        "ellipsis_lines",
        "no_letters",
        "no_stop_words",
        "swearing",
        "duplicate_lines",
        "common_ngram",
        "duplicate_ngrams",
    )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.limits = {kind: replace(config, **cast(Any, own)) for kind, own in config.by_kind.items()}

    def judge(self, document: Document) -> Verdict:
        broken = first_broken(self._rules(document))
        return drop(broken[0], document.text, broken[1]) if broken else keep(document.text)

    def _rules(self, document: Document) -> Iterator[Rule]:
        """Cheapest first; words are counted without the marks of speakers."""
        limit, no_limit = self.limits.get(document.kind, self.config), float("inf")
        text = without_speakers(document.text)
        found = words(text)
        yield "too_short", len(found), limit.min_words, no_limit
        yield "too_long", len(found), 0, limit.max_words
        mean_word = sum(map(len, found)) / max(1, len(found))
        yield "words_too_short", mean_word, limit.min_mean_word, no_limit
        yield "words_too_long", mean_word, 0, limit.max_mean_word
        yield "symbols", symbol_frac(text, len(found)), 0, limit.max_symbol_frac
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        yield "bullets", share(lines, _BULLET.match), 0, limit.max_bullet_lines_frac
        yield "ellipsis_lines", share(lines, ENDS_IN_ELLIPSIS.match), 0, limit.max_ellipsis_lines_frac
        yield "no_letters", share(text.split(), has_letter), limit.min_letter_words_frac, no_limit
        yield "no_stop_words", len(_STOP_WORDS.intersection(found)), limit.min_stop_words, no_limit
        if document.kind in limit.swear_kinds:
            yield "swearing", sum(word in _SWEAR_WORDS for word in found), 0, limit.max_swear_words
        if len(found) < limit.min_words_for_repetition:
            return  # in a short talk "how are you" alone is a fifth of the text
        yield "duplicate_lines", duplicates(lines)[0] / max(1, len(lines)), 0, limit.max_duplicate_lines_frac
        yield "common_ngram", common_ngram_chars_frac(found), 0, limit.max_common_ngram_chars_frac
        yield "duplicate_ngrams", duplicate_ngram_chars_frac(found), 0, limit.max_duplicate_ngram_chars_frac


def symbol_frac(text: str, n_words: int) -> float:
    """`#` signs or ellipses, whichever are more, for each word (1)."""
    return max(text.count("#"), len(_ELLIPSES.findall(text))) / max(1, n_words)


def common_ngram_chars_frac(found: list[str]) -> float:
    """Share of the characters that the most frequent 2-, 3- or 4-gram takes, if it repeats (4)."""
    ids_W, lengths_W = numbered(found)
    best = 0
    for each in repeats(ids_W, np.zeros_like(ids_W), 4, within=True):
        if len(each.starts_R) == 0:
            break
        _, first, counts = np.unique(each.names_R, return_index=True, return_counts=True)
        chars = np.convolve(lengths_W, np.ones(each.n, dtype=np.int64), "valid")[each.starts_R[first]]
        best = max(best, int((counts * chars).max()))
    return best / max(1, int(lengths_W.sum()))


def duplicate_ngram_chars_frac(found: list[str], n: int = 5) -> float:
    """Share of the characters inside an n-gram that occurred before (5)."""
    ids_W, lengths_W = numbered(found)
    *_, last = repeats(ids_W, np.zeros_like(ids_W), n, within=True)
    again = np.ones(len(last.starts_R), dtype=bool)
    again[np.unique(last.names_R, return_index=True)[1]] = False
    covered_W = np.zeros(len(ids_W), dtype=bool)
    for place in range(n):
        covered_W[last.starts_R[again] + place] = True
    return float(lengths_W[covered_W].sum() / max(1, lengths_W.sum()))


build = Quality
