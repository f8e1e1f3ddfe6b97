"""ngrams: runs of n words that occur more than once, in one document or in a whole corpus.

Equations   (1)-(3) in docs/data/ngrams.md
Source      Rae et al. 2021, arXiv 2112.11446, A1.1 (repetition); Agarwal et al. 2012, Mergeable Summaries (2)-(3)
Cost        repeats: one sort of the words, then of what is left of them; Frequent: O(1) for each entry of a batch
Differs     from Agarwal: what a batch may have left out is added up for each n-gram apart, so that one which
            was listed by every batch is known to be counted exactly
Shapes      W words of a batch, R starts of repeated n-grams, D documents
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Repeats(NamedTuple):
    """The n-grams that occur more than once: where each occurrence starts, and a number for its n-gram."""

    n: int
    starts_R: Ints
    names_R: Ints


def repeats(ids_W: Ints, document_W: Ints, max_n: int, *, within: bool) -> Iterator[Repeats]:
    """All repeated n-grams for n = 2 … max_n; none crosses the border of a document.

    An n-gram can only occur twice if its first n-1 words do, so each round looks only at what the round before
    has left: after three or four words that is nearly nothing.

    Args:
        ids_W: the word at each position, as a number from 0.
        document_W: the document at each position, as a number from 0.
        within: repeated inside one document, instead of anywhere.
    """
    n_ids = int(ids_W.max(initial=0)) + 1
    starts_R = np.arange(len(ids_W))
    keys_R = document_W * n_ids + ids_W if within else ids_W
    for n in range(1, max_n + 1):
        if n > 1:
            starts_R, keys_R = _one_word_more(starts_R, keys_R, ids_W, document_W, n)
        _, names_R, counts = np.unique(keys_R, return_inverse=True, return_counts=True)
        again_R = counts[names_R] > 1
        starts_R, keys_R = starts_R[again_R], names_R[again_R]
        if n > 1:
            yield Repeats(n, starts_R, keys_R)


def _one_word_more(starts_R: Ints, names_R: Ints, ids_W: Ints, document_W: Ints, n: int) -> tuple[Ints, Ints]:
    """The (n-1)-grams that still have a word after them in their document, with the key of the longer n-gram."""
    inside_R = starts_R + (n - 1) < len(ids_W)
    starts_R, names_R = starts_R[inside_R], names_R[inside_R]
    inside_R = document_W[starts_R] == document_W[starts_R + (n - 1)]
    starts_R, names_R = starts_R[inside_R], names_R[inside_R]
    n_ids = int(ids_W.max(initial=0)) + 1
    return starts_R, names_R * n_ids + ids_W[starts_R + (n - 1)]


def repeated_share(ids_W: Ints, document_W: Ints, n_documents: int, max_n: int) -> NDArray[np.float64]:
    """Share of the n-grams of each document that occurred before in it (1). Shape (D, max_n - 1), n from 2.

    0 for a document that is too short to have an n-gram.
    """
    shares = np.zeros((n_documents, max_n - 1))
    lengths_D = np.bincount(document_W, minlength=n_documents)
    for found in repeats(ids_W, document_W, max_n, within=True):
        _, first = np.unique(found.names_R, return_index=True)
        seen_D = np.bincount(document_W[found.starts_R], minlength=n_documents)
        distinct_D = np.bincount(document_W[found.starts_R[first]], minlength=n_documents)
        shares[:, found.n - 2] = (seen_D - distinct_D) / np.maximum(1, lengths_D - found.n + 1)
    return shares


class Listed(NamedTuple):
    """The most frequent n-grams of one batch. left_out: no n-gram that is not listed occurs more often in it."""

    counts: dict[str, int]
    left_out: int


def most_repeated(found: Repeats, words: Sequence[str], ids_W: Ints, size: int) -> Listed:
    """The `size` most frequent of the repeated n-grams of a batch; of equal counts those that come first."""
    _, first, counts = np.unique(found.names_R, return_index=True, return_counts=True)
    order = np.lexsort((found.starts_R[first], -counts))
    starts = found.starts_R[first[order[:size]]]
    grams = [" ".join(words[i] for i in ids_W[start : start + found.n]) for start in starts.tolist()]
    left_out = (
        int(counts[order[size]]) if len(order) > size else 1
    )  # every n-gram that occurs once is left out
    return Listed(dict(zip(grams, counts[order[:size]].tolist(), strict=True)), left_out)


class Seen(NamedTuple):
    """An n-gram that occurs at least `times` times and at most `times + error`."""

    gram: str
    times: int
    error: int


class Frequent:
    """The most frequent n-grams of a corpus in bounded memory, from those of its batches (2)-(3).

    An n-gram that is not here occurred at most `missed` times so far. `entries[gram]` is [count, slack]: what
    batches that did not list it may hide is slack + left_out, where left_out adds up over all batches.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: dict[str, list[int]] = {}
        self.left_out = 0
        self.missed = 0

    def add(self, batch: Listed) -> None:
        """Take in the list of one more batch."""
        for gram, count in batch.counts.items():
            entry = self.entries.setdefault(gram, [0, self.missed - self.left_out])
            entry[0] += count
            entry[1] -= batch.left_out
        self.left_out += batch.left_out
        self.missed += batch.left_out
        if len(self.entries) > 2 * self.size:
            self._forget()

    def top(self, size: int) -> list[Seen]:
        """The most frequent ones, ties by spelling."""
        ranked = sorted(self.entries.items(), key=lambda item: (-item[1][0], item[0]))
        return [Seen(gram, count, slack + self.left_out) for gram, (count, slack) in ranked[:size]]

    def _forget(self) -> None:
        """Keep the `size` most frequent; `missed` covers what the others may have had."""
        ranked = sorted(self.entries.items(), key=lambda item: (-item[1][0], item[0]))
        for _, (count, slack) in ranked[self.size :]:
            self.missed = max(self.missed, count + slack + self.left_out)
        self.entries = dict(ranked[: self.size])
