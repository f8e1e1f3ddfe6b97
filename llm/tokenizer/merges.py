"""merges: learn merges with counts that are kept up to date, fast; what bpe_fast and wordpiece_fast share.

A plain implementation counts all pairs again after every merge. But a merge of (a, b) changes only words that
hold this pair, so this one remembers for every pair where it occurs and corrects the counts of these words
alone. What is left is to find the best pair: from a heap by frequency, from an array by likelihood.

Cost        counting: words x length once, then only what merges touch: each byte of a different word is merged
            away at most once; memory: one entry for every place of a pair
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np

Pair = tuple[int, int]


class Corpus:
    """Different words as ids and how often each occurs; counts of ids and of pairs of neighbours."""

    def __init__(self, words: Iterable[tuple[list[int], int]]) -> None:
        self.words: list[list[int]] = []
        self.counts: list[int] = []
        self.tokens: Counter[int] = Counter()
        self.pairs: Counter[Pair] = Counter()
        self.where: dict[Pair, set[int]] = defaultdict(set)
        for number, (word, count) in enumerate(words):
            self.words.append(word)
            self.counts.append(count)
            for index in word:
                self.tokens[index] += count
            for pair in pairwise(word):
                self.pairs[pair] += count
                self.where[pair].add(number)

    def merge(self, pair: Pair, token: int) -> list[Pair]:
        """Put `token` for `pair` everywhere; returns the pairs whose count changed."""
        changes: dict[Pair, int] = defaultdict(int)
        merged = 0
        for number in self.where.pop(pair):
            count, before = self.counts[number], self.words[number]
            after = replace(before, pair, token)
            self.words[number] = after
            merged += count * (len(before) - len(after))
            for gone in pairwise(before):
                changes[gone] -= count
            for new in pairwise(after):
                changes[new] += count
                if token in new:
                    self.where[new].add(number)
        for index, change in ((pair[0], -merged), (pair[1], -merged), (token, merged)):
            self.tokens[index] += change
        changed = [other for other, change in changes.items() if change]
        for other in changed:
            self.pairs[other] += changes[other]
        return changed


def replace(word: list[int], pair: Pair, token: int) -> list[int]:
    """Put `token` for each `pair`, from left to right; in `aaa` the pair `aa` is found once."""
    left, right = pair
    merged: list[int] = []
    last = -1  # the id before, if it may still be merged
    for index in word:
        if index == right and last == left:
            merged[-1] = token
            last = -1
        else:
            merged.append(index)
            last = index
    return merged


# A rule merges the best pair, yields it, and goes on; `name` gives the id of what a pair becomes.
Rule = Callable[[Corpus, int, Callable[[Pair], int]], Iterator[Pair]]


def by_frequency(corpus: Corpus, min_count: int, name: Callable[[Pair], int]) -> Iterator[Pair]:
    """The most frequent pair; a tie goes to the smallest ids.

    Entries of the heap are not corrected when a count falls: one that turns out too high when it comes up is
    put back with what is true. A count that rises gets a new entry, so no pair stands below its true place.
    """
    heap = [(-count, pair) for pair, count in corpus.pairs.items()]
    heapq.heapify(heap)
    while heap:
        negative, pair = heapq.heappop(heap)
        count = corpus.pairs[pair]
        if count < -negative:
            heapq.heappush(heap, (-count, pair))
        elif count < min_count:
            return
        else:
            for changed in corpus.merge(pair, name(pair)):
                heapq.heappush(heap, (-corpus.pairs[changed], changed))
            yield pair


def by_likelihood(corpus: Corpus, min_count: int, name: Callable[[Pair], int]) -> Iterator[Pair]:
    """The pair with the highest count(ab) / (count(a) count(b)); ties: the most frequent, the smallest ids.

    A merge of (a, b) makes a and b rarer and so raises the score of every other pair with one of them. A heap
    would have to be told of all these; one pass over arrays of all pairs is simpler and fast enough.
    """
    table = _PairTable(corpus.pairs)
    while True:
        pair = table.best(corpus.tokens, min_count)
        if pair is None:
            return
        table.update({changed: corpus.pairs[changed] for changed in corpus.merge(pair, name(pair))})
        yield pair


class _PairTable:
    """Pairs and their counts as arrays that grow; a pair keeps its row."""

    def __init__(self, pairs: dict[Pair, int]) -> None:
        self.rows: dict[Pair, int] = {}
        self.pairs = np.zeros((2, 1024), dtype=np.int64)
        self.counts = np.zeros(1024, dtype=np.int64)
        self.update(pairs)

    def update(self, pairs: dict[Pair, int]) -> None:
        rows = [self.rows.setdefault(pair, len(self.rows)) for pair in pairs]
        while len(self.rows) > len(self.counts):
            self.pairs = np.concatenate([self.pairs, np.zeros_like(self.pairs)], axis=1)
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        self.pairs[:, rows] = np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T
        self.counts[rows] = list(pairs.values())

    def best(self, tokens: Counter[int], min_count: int) -> Pair | None:
        """The pair that `by_likelihood` merges next; exact while products of two counts are below 2^53."""
        candidates = np.flatnonzero(self.counts >= min_count)
        if not len(candidates):
            return None
        table = np.zeros(max(tokens) + 1)
        table[list(tokens)] = list(tokens.values())
        left, right = self.pairs[:, candidates]
        scores = self.counts[candidates] / (table[left] * table[right])
        ties = candidates[scores == scores.max()]
        _, a, b = min((-self.counts[row], *self.pairs[:, row]) for row in ties)
        return int(a), int(b)


def learn(
    tokens: list[str],
    words: Iterable[tuple[list[str], int]],
    *,
    join: Callable[[str, str], str],
    rule: Rule,
    vocab_size: int,
    min_count: int,
) -> list[tuple[str, str]]:
    """Learn merges until there are `vocab_size` tokens or no pair occurs `min_count` times.

    tokens: what the vocabulary starts with, in id order; the new ones are added to it.
    words: different words as lists of these tokens, with their counts. join: how a merged pair is written.
    """
    ids = {token: index for index, token in enumerate(tokens)}

    def name(pair: Pair) -> int:
        token = join(tokens[pair[0]], tokens[pair[1]])
        if token not in ids:  # a string that is a token already keeps its id
            ids[token] = len(tokens)
            tokens.append(token)
        return ids[token]

    if len(tokens) >= vocab_size:
        return []
    merges = []
    corpus = Corpus(([ids[piece] for piece in word], count) for word, count in words)
    for left, right in rule(corpus, min_count, name):
        merges.append((tokens[left], tokens[right]))
        if len(tokens) >= vocab_size:
            break
    return merges
