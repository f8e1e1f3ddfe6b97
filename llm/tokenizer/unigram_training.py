"""unigram_training: what unigram_teaching.py does word by word, for all words at once in numpy.

Strings get numbers, so that "which piece stands here?" is a table: `table[m - 1, i]` is the piece of length m
that starts at character i of all words written one after the other, or -1. The numbers come from naming
(Karp, Miller, Rosenberg 1972): a string of length m is the name of its first m - 1 characters and one more
character; equal pairs get equal names. It is exact, unlike a hash.

Lattices of all words are walked in step: layer t holds position t of every word that is long enough. The
step from layer to layer is one vectorised operation, whatever the number of words.

Equations   as in docs/tokenizer/algorithms/unigram_teaching.md, whose results this equals
Cost        O(n L) numbers for n characters of distinct words; one E-step adds up as many edges as there are
            places of pieces, about 2 n to 4 n
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm.tokenizer.lattices import Floats, Ints, Lattices
from llm.tokenizer.unigram import LEAST_COUNT, MARGIN, N_EM_STEPS, N_SEEDS, Learning, finish


def learn(
    counts: Mapping[str, int],
    size: int,
    min_frequency: int,
    config: Learning,
    seed_counts: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """At most `size` pieces with their log-probabilities; equal to `UnigramTeaching.learn`.

    seed_counts: how often candidates occur in each word, where it is not how often the word occurs.
    """
    if not counts:
        return {}
    corpus = Corpus(counts, config.max_piece_length)
    scores = corpus.seed(min_frequency, seed_counts or counts)
    lattices = corpus.word_lattices()
    enough = int(MARGIN * size)
    while True:
        for _ in range(N_EM_STEPS):
            scores, kept = maximise(lattices.expected_counts(scores), corpus.piece_lengths)
            corpus.keep(kept)
            lattices.keep(kept)
        if len(scores) <= enough:
            return finish(dict(zip(corpus.pieces(), scores.tolist(), strict=True)), size)
        kept = prune(corpus, lattices, scores, max(enough, int(config.shrink * len(scores))))
        corpus.keep(kept)
        lattices.keep(kept)
        scores = scores[kept]


def maximise(expected: Floats, lengths: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """M-step: scores of the pieces that stay, and which those are (3)."""
    kept = (lengths == 1) | (np.round(expected, 9) >= LEAST_COUNT)
    counts = np.maximum(expected[kept], LEAST_COUNT)
    return rounded(digamma(counts) - digamma(counts.sum(keepdims=True))), kept


def prune(corpus: "Corpus", lattices: Lattices, scores: Floats, n_kept: int) -> NDArray[np.bool_]:
    """Which pieces stay: characters, then those with the largest loss (4)."""
    words, on_path = lattices.best_paths(scores)
    used = np.bincount(on_path, weights=lattices.counts[words], minlength=len(scores))
    total = used.sum()
    candidates = np.flatnonzero((used > 0) & (corpus.piece_lengths > 1))
    candidates = candidates[np.argsort(-corpus.piece_lengths[candidates], kind="stable")]
    # Without the piece, its occurrences are written in another way: one path for each candidate.
    owners, instead = corpus.piece_lattices(candidates).best_paths(scores)
    freed, n_instead = used[candidates], np.bincount(owners, minlength=len(candidates))
    without = total + freed * (n_instead - 1)
    log_share = np.log((used[instead] + freed[owners]) / without[owners])
    change = np.bincount(owners, log_share, minlength=len(candidates))
    loss = np.round(freed * (np.log(freed / total) - change), 6)
    kept = corpus.piece_lengths == 1
    ranked = candidates[np.lexsort((candidates, -loss))]
    kept[ranked[: n_kept - int(kept.sum())]] = True
    return kept


def digamma(x: Floats) -> Floats:
    """The derivative of log Gamma, for x > 0 (5)."""
    y = x + 10
    series = 1 / 12 - (1 / 120 - (1 / 252 - (1 / 240 - 1 / 132 / y**2) / y**2) / y**2) / y**2
    return np.log(y) - 1 / (2 * y) - series / y**2 - sum(1 / (x + step) for step in range(10))


def rounded(scores: Floats) -> Floats:
    return np.rint(scores * 2**32) / 2**32


@dataclass
class Strings:
    """All frequent strings of one length, named 0, 1, … in alphabetical order.

    positions, names: places of the text where one starts, and which. first: a place of each.
    frequency: how often each occurs. followed: how often its most frequent continuation by one character does.
    """

    positions: Ints
    names: Ints
    first: Ints
    frequency: Floats
    followed: Floats


class Corpus:
    """The distinct words, longest first, written one after the other, and which piece stands where."""

    def __init__(self, counts: Mapping[str, int], longest: int) -> None:
        self.words = sorted(counts, key=lambda word: (-len(word), word))
        self.text = "".join(self.words)
        self.longest = longest
        self.counts = np.array([counts[word] for word in self.words], dtype=np.float64)
        self.lengths = np.array([len(word) for word in self.words], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.table = np.full((longest, len(self.text)), -1, dtype=np.int32)

    def seed(self, min_frequency: int, counts: Mapping[str, int]) -> Floats:
        """Fill the table with the first pieces and return their scores (1)."""
        weights = np.array([counts[word] for word in self.words], dtype=np.float64)
        levels = self._strings(min_frequency, np.repeat(weights, self.lengths))
        covered = [m * level.frequency for m, level in enumerate(levels, 1)]
        for level, text_covered in zip(levels[1:], covered[1:], strict=True):
            text_covered[level.followed == level.frequency] = 0  # the longer string is the better piece
        amount = np.concatenate(covered)
        lengths = np.repeat(np.arange(1, len(levels) + 1), [len(level.first) for level in levels])
        best = np.lexsort((-amount, lengths > 1))[:N_SEEDS]
        chosen = np.zeros(len(amount), dtype=bool)
        chosen[best] = amount[best] > 0
        numbers = np.where(chosen, np.cumsum(chosen) - 1, -1)
        for m, level in enumerate(levels):
            of_level, numbers = np.split(numbers, [len(level.first)])
            self.table[m, level.positions] = of_level[level.names]
        self.piece_lengths = lengths[chosen]
        self.piece_starts = np.concatenate([level.first for level in levels])[chosen]
        self.numbers = np.append(np.arange(len(self.piece_starts)), -1)  # of the pieces in the table, today
        return rounded(np.log(amount[chosen]) - np.log(amount[chosen].sum()))

    def _strings(self, min_frequency: int, weights: Floats) -> list[Strings]:
        """Strings of 1, 2, … characters, as long as there are frequent ones; each length from the one before."""
        letters = np.frombuffer(self.text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
        left = np.repeat(self.starts + self.lengths, self.lengths) - np.arange(len(letters))
        width = int(letters.max()) + 1
        positions, keys = np.arange(len(letters)), letters
        levels: list[Strings] = []
        while len(positions) and len(levels) < self.longest:
            unique, first, names = np.unique(keys, return_index=True, return_inverse=True)
            frequency = np.bincount(names, weights[positions]).astype(np.float64)
            if levels:
                np.maximum.at(levels[-1].followed, unique // width, frequency)
            # A rare string stays out, and with it all longer ones that begin with it. Characters always stay.
            frequent = frequency >= min_frequency
            stays = frequent | (not levels)
            renamed = np.cumsum(stays) - 1
            here = stays[names]
            level = Strings(
                positions[here],
                renamed[names[here]],
                positions[first[stays]],
                frequency[stays],
                np.zeros(stays.sum()),
            )
            levels.append(level)
            m = len(levels)
            longer = frequent[stays][level.names] & (left[level.positions] > m)
            positions = level.positions[longer]
            keys = level.names[longer] * width + letters[positions + m]
        return levels

    def pieces(self) -> list[str]:
        spans = zip(self.piece_starts.tolist(), self.piece_lengths.tolist(), strict=True)
        return [self.text[start : start + length] for start, length in spans]

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Forget all pieces but these; the others are numbered anew in the same order."""
        anew = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
        self.numbers = anew[self.numbers]
        self.piece_starts, self.piece_lengths = self.piece_starts[kept], self.piece_lengths[kept]

    def word_lattices(self) -> Lattices:
        return self._lattices(self.starts, self.lengths, self.counts, self.lengths + 1)

    def piece_lattices(self, pieces: Ints) -> Lattices:
        """Lattices of pieces, longest first, as if they were words: without the edge that is the whole piece."""
        lengths = self.piece_lengths[pieces]
        return self._lattices(self.piece_starts[pieces], lengths, np.ones(len(pieces)), lengths)

    def _lattices(self, starts: Ints, lengths: Ints, counts: Floats, below: Ints) -> Lattices:
        """Edges shorter than `below` inside stretches of the text; these come longest first."""
        word = np.repeat(np.arange(len(starts)), lengths)
        begin = np.arange(len(word)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        place = np.repeat(starts, lengths) + begin
        room = np.minimum(lengths[word] - begin, below[word] - 1)
        found = []
        for m in range(self.longest, 0, -1):
            fits = np.flatnonzero(room >= m)
            piece = self.numbers[self.table[m - 1, place[fits]]]
            there = piece >= 0
            inside = fits[there]
            found.append((word[inside], begin[inside], np.full(len(inside), m), piece[there]))
        words, begins, sizes, pieces = (np.concatenate(column) for column in zip(*found, strict=True))
        return Lattices(lengths, counts, words, begins, begins + sizes, pieces)
