"""Contamination: keep the texts that models are measured on out of what they learn from.

Equations   (1)-(2) in docs/data/filters/contamination.md; comments below carry the same numbers
Source      Brown et al. 2020 (GPT-3), arXiv 2005.14165, appendix C; Shao et al. 2024 (DeepSeekMath), arXiv
            2402.03300, section 2.1 (items shorter than an n-gram, from three words on)
Cost        O(words) a document and length: hashes of its n-grams looked up in a sorted array
Differs     from GPT-3: dropping the document is the default, cutting an option; n-grams that many items of a
            benchmark share (templates) are not indexed. From DeepSeekMath: items of fewer than 8 words count
            where they are a whole line, since so few words stand in many a sentence
Shapes      W words of a text, G indexed n-grams
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llm.data.document import Document
from llm.data.filters.base import Filter, Item, Verdict, drop, keep
from llm.data.words import NO_SPACES

U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]

_WORD = re.compile(rf"^[A-Z]: |([{NO_SPACES}]|[^\W_{NO_SPACES}]+(?:['’][^\W_{NO_SPACES}]+)*)", re.MULTILINE)
_ARTICLES = frozenset(("a", "an", "the"))
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Config:
    """n: words of an n-gram (characters in Chinese). min_words: a shorter text of an item counts as a whole line only.

    min_line_words: a still shorter one is not looked for. max_items: an n-gram in more items of one benchmark is
    a template. max_documents: one in more training documents is a common phrase. action: `drop` the document, or
    `cut` the n-gram and `margin` characters on either side; pieces of fewer than `margin` characters go, and a
    document in more than `max_pieces` goes.
    """

    n: int = 13
    min_words: int = 8
    min_line_words: int = 4
    max_items: int = 10
    max_documents: int = 10
    action: Literal["drop", "cut"] = "drop"
    margin: int = 200
    max_pieces: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.min_line_words <= self.min_words <= self.n:
            raise ValueError(
                f"min_line_words ({self.min_line_words}), min_words ({self.min_words}) and n ({self.n}) must "
                "rise from 1"
            )
        if min(self.max_items, self.max_documents, self.max_pieces) < 1 or self.margin < 0:
            raise ValueError(
                f"max_items ({self.max_items}), max_documents ({self.max_documents}), max_pieces "
                f"({self.max_pieces}) must be positive, margin ({self.margin}) not negative"
            )


class Contamination(Filter):
    """Finds n-grams of benchmark items in training documents."""

    reasons = ("contaminated", "contaminated_everywhere")
    needs_fit = True
    needs_references = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.index: dict[int, U64] = {}  # length -> sorted hashes of the n-grams to look for
        self.items: dict[str, list[dict[int, U64]]] = {}
        self.dirty: dict[str, float] = {}

    def refer(self, benchmarks: Mapping[str, Iterable[Item]]) -> None:
        grams: dict[int, list[U64]] = {}
        for name, items in benchmarks.items():
            self.items[name] = [self._item(item) for item in items]
            for length in {length for item in self.items[name] for length in item}:
                found = [np.unique(item[length]) for item in self.items[name] if length in item]
                hashes, counts = np.unique(np.concatenate(found), return_counts=True)
                grams.setdefault(length, []).append(hashes[counts <= self.config.max_items])
        self.index = {length: np.unique(np.concatenate(parts)) for length, parts in sorted(grams.items())}

    def fit(self, documents: Iterable[Document]) -> None:
        """Count in how many documents each n-gram occurs: forget common ones, say which items are met."""
        counts = {length: np.zeros(len(hashes), dtype=np.int64) for length, hashes in self.index.items()}
        for document in documents:
            words = _Words(document.text)
            for length, hashes_G in self.index.items():
                found = self._find(words, length, hashes_G)
                counts[length][np.unique(found[found >= 0])] += 1
        met = {
            n: h[(counts[n] > 0) & (counts[n] <= self.config.max_documents)] for n, h in self.index.items()
        }
        self.index = {n: h[counts[n] <= self.config.max_documents] for n, h in self.index.items()}
        for name, items in self.items.items():
            dirty = sum(any(np.isin(h, met[n]).any() for n, h in item.items()) for item in items)
            self.dirty[name] = dirty / max(1, len(items))  # (2)
        self.items = {}  # not needed by the processes that judge

    def judge(self, document: Document) -> Verdict:
        text = document.text
        spans = self._hits(text)
        if not spans:
            return keep(text, 0.0)
        if self.config.action == "drop":
            return drop("contaminated", text, float(len(spans)))
        pieces, n_cuts = _cut(text, spans, self.config.margin)
        if n_cuts + 1 > self.config.max_pieces:
            return drop("contaminated_everywhere", text, float(n_cuts))
        if not pieces:
            return drop("contaminated", text, float(len(spans)))
        return keep("\n\n".join(pieces), float(len(spans)), {"cut": n_cuts})

    def facts(self) -> dict[str, Any]:
        """Share of each benchmark's items of which some n-gram stands in the training text."""
        return {"dirty_items_frac": self.dirty}

    def _item(self, item: Item) -> dict[int, U64]:
        """What gives an item away, by length: of each of its texts the n-grams, or the whole of a shorter one (1)."""
        grams: dict[int, list[U64]] = {}
        for text in item:
            hashes_W = _Words(text).hashes_W
            length = min(self.config.n, len(hashes_W))
            if length >= self.config.min_line_words:
                grams.setdefault(length, []).append(ngrams(hashes_W, length))
        return {length: np.concatenate(parts) for length, parts in grams.items()}

    def _find(self, words: "_Words", length: int, hashes_G: U64) -> Ints:
        """For each run of so many words its place in the index, or -1; of short runs only whole lines count."""
        found = _find(hashes_G, ngrams(words.hashes_W, length))
        return found if length >= self.config.min_words else np.where(words.lines(length), found, -1)

    def _hits(self, text: str) -> list[tuple[int, int]]:
        """(first, last character) of every indexed n-gram, in order."""
        words = _Words(text)
        spans = []
        for length, hashes_G in self.index.items():
            at = np.flatnonzero(self._find(words, length, hashes_G) >= 0)
            spans += [(words.spans[i][0], words.spans[i + length - 1][1]) for i in at.tolist()]
        return sorted(spans)


class _Words:
    """The words of a text, as hashes, and where each stands."""

    def __init__(self, text: str) -> None:
        found = list(_words(text))
        self.hashes_W = _hashes([word for word, _, _ in found])
        self.spans = [(start, end) for _, start, end in found]
        self._text = text

    def lines(self, length: int) -> NDArray[np.bool_]:
        """Whether the run of `length` words from each word on is a whole line."""
        at = np.arange(max(0, len(self._bounded) - 1 - length))
        before, first, last, after = (self._bounded[at + step] for step in (0, 1, length, length + 1))
        mask: NDArray[np.bool_] = (before != first) & (first == last) & (last != after)
        return mask

    @cached_property
    def _bounded(self) -> Ints:
        """The line of each word, with a word of another line before the first and after the last."""
        breaks = [match.start() for match in re.finditer("\n", self._text)]
        line_W = np.searchsorted(breaks, [start for start, _ in self.spans])
        return np.concatenate([[-1], line_W, [-1]])


def ngrams(words_W: U64, n: int) -> U64:
    """Hashes of all runs of n words: a polynomial in an odd base modulo 2^64 (1)."""
    rolled = np.zeros(max(0, len(words_W) - n + 1), dtype=np.uint64)
    for place in range(n):
        rolled = rolled * _BASE + words_W[place : place + len(rolled)]
    return rolled


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """(word, start, end): lower case, without punctuation, articles and marks of speakers."""
    for match in _WORD.finditer(text):
        word = (match[1] or "").lower().replace("’", "'")  # don’t is don't
        if word and word not in _ARTICLES:
            yield word, match.start(), match.end()


def _hashes(words: list[str]) -> U64:
    return np.fromiter(map(_hash, words), dtype=np.uint64, count=len(words))


@lru_cache(1 << 18)
def _hash(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _find(sorted_G: U64, wanted: U64) -> Ints:
    """Place of each wanted hash among the sorted ones, -1 where it is missing."""
    if len(sorted_G) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(sorted_G, wanted), len(sorted_G) - 1)
    return np.where(sorted_G[at] == wanted, at, -1)


def _cut(text: str, spans: list[tuple[int, int]], margin: int) -> tuple[list[str], int]:
    """What is left without the spans and their margins, in pieces of `margin` characters or more; cuts made."""
    wide: list[tuple[int, int]] = []
    for start, end in ((max(0, start - margin), end + margin) for start, end in spans):
        if wide and start <= wide[-1][1]:
            wide[-1] = (wide[-1][0], max(end, wide[-1][1]))
        else:
            wide.append((start, end))
    borders = [0, *(border for span in wide for border in span), len(text)]
    pieces = [text[a:b].strip() for a, b in zip(borders[::2], borders[1::2], strict=True)]
    return [piece for piece in pieces if piece and len(piece) >= margin], len(wide)


build = Contamination
