"""distinct: how many different words and lines a corpus has, exact while they are few, in bounded memory beyond.

Equations   (1)-(3) in docs/data/distinct.md; comments below carry the same numbers
Source      Gibbons 2001, Distinct Sampling (VLDB); Wegman's adaptive sampling in Flajolet 1990
Cost        O(1) a word; O(size log size) each time it is too many, which happens once in a doubling of the corpus
Differs     from Gibbons: the most frequent words stay beside the sample, with a bound on what their counts miss
Shapes      H hashes
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_HASHES = 1 << 20
_FREQUENT_FRAC = 4  # one in so many places is kept for frequent words, the others for the sample


class Types:
    """The words of a corpus: `counts` of the frequent ones and of a sample of all.

    Up to `size` different words the sample is everything and `scale` is 1. Then it is every word whose hash is small
    enough, one in `scale`: what is counted of it was counted from the first occurrence on, so its numbers times
    `scale` are those of the corpus (1), (2). Other counts are too low by at most `missed` (3).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.n_words = 0
        self.counts: Counter[str] = Counter()  # in the order in which words came
        self.scale = 1
        self.missed = 0
        self._first = array("q")  # beside `counts`: the position at which each word came

    def meet(self, types: Iterable[str], positions: Iterable[int], n_words: int) -> None:
        """Note new words of a batch of `n_words`, by the position in it; comes before `count` of the same batch."""
        for word, position in zip(types, positions, strict=True):
            if word not in self.counts:
                self.counts[word] = 0
                self._first.append(self.n_words + position)
        self.n_words += n_words

    def count(self, types: Iterable[str], occurrences: Iterable[int]) -> None:
        """Add occurrences of words that were met."""
        for word, count in zip(types, occurrences, strict=True):
            self.counts[word] += count

    def settle(self) -> None:
        """Forget what is too much; comes after the last `count` of a batch."""
        if len(self.counts) <= self.size:
            return
        self._forget()
        while len(self.counts) > self.size * (
            1 - 1 / _FREQUENT_FRAC
        ):  # room for what comes before the next time
            self.scale *= 2
            self._forget()

    def _forget(self) -> None:
        """Keep the sample and the most frequent of the others."""
        if self.scale == 1:
            return
        floor = sorted(self.counts.values(), reverse=True)[self.size // _FREQUENT_FRAC]
        kept = [
            (word, count, first)
            for (word, count), first in zip(self.counts.items(), self._first, strict=True)
            if count > floor or self._in_sample(word)
        ]
        if len(kept) < len(self.counts):
            self.missed += floor  # (3)
        self.counts = Counter({word: count for word, count, _ in kept})
        self._first = array("q", [first for _, _, first in kept])

    def sample(self) -> tuple[list[int], list[int]]:
        """Of the words of the sample: how often each occurs, and where each came, ascending."""
        if self.scale == 1:
            return list(self.counts.values()), self._first.tolist()
        rows = [
            (count, first)
            for (word, count), first in zip(self.counts.items(), self._first, strict=True)
            if self._in_sample(word)
        ]
        return [count for count, _ in rows], [first for _, first in rows]

    def _in_sample(self, word: str) -> bool:
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little") < 2**64 // self.scale


class Hashes:
    """How many hashes came, and how many different ones: exact up to `size` of these, by a sample of them beyond."""

    def __init__(self, size: int = _HASHES) -> None:
        self.size = size
        self.total = 0
        self.scale = 1
        self._kept_H: U64 = np.zeros(0, dtype=np.uint64)
        self._new: list[U64] = []
        self._n_new = 0

    def add(self, hashes_H: U64) -> None:
        """Take in more of them."""
        self.total += len(hashes_H)
        self._new.append(hashes_H)
        self._n_new += len(hashes_H)
        if self._n_new > self.size:
            self._settle()

    def distinct(self) -> int:
        """Different hashes so far (1)."""
        self._settle()
        return self.scale * len(self._kept_H)

    def _settle(self) -> None:
        self._kept_H = self._small(np.unique(np.concatenate([self._kept_H, *self._new])))
        self._new, self._n_new = [], 0
        while len(self._kept_H) > self.size:
            self.scale *= 2
            self._kept_H = self._small(self._kept_H)

    def _small(self, hashes_H: U64) -> U64:
        return hashes_H[hashes_H <= np.uint64(2**64 // self.scale - 1)]
