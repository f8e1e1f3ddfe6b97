"""Unigram, to be read: start from too many pieces, estimate how probable each is, drop those that matter least.

Equations   (1)-(5) in docs/tokenizer/algorithms/unigram_teaching.md; comments below carry the same numbers
Source      Kudo 2018, arXiv 1804.10959, sections 3.2-3.3; SentencePiece (arXiv 1808.06226) for what Kudo leaves open:
            seeds, the sparse prior of the M-step, the loss of a piece
Cost        each E-step O(n L) for n characters of distinct words and pieces of at most L characters, about 20
            E-steps; encode O(w L) per word of w characters; state: vocab_size pieces and scores
Differs     from SentencePiece: a candidate in a frequent word counts as often as the word; a character of the
            alphabet is never dropped; scores are rounded to multiples of 2^-32
Shapes      none: strings in, strings out
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import tokenizers

from llm.tokenizer import unigram
from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.encoder import Encoder, WordEncoder
from llm.tokenizer.lattice import Pieces, backward, forward, lattice, viterbi
from llm.tokenizer.unigram import (
    BYTE_PIECES,
    LEAST_COUNT,
    MARGIN,
    N_EM_STEPS,
    N_SEEDS,
    UNKNOWN_PENALTY,
    Learning,
    finish,
)


@dataclass(frozen=True, kw_only=True)
class Config(Size, Learning):
    """vocab_size: special tokens + 256 bytes + pieces. min_frequency: a rarer string is no candidate."""

    def __post_init__(self) -> None:
        Size.__post_init__(self)
        Learning.__post_init__(self)


class UnigramTeaching(Algorithm):
    """The algorithm without its bookkeeping; the functions below are the steps."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        size = self.config.vocab_size - len(self.special_tokens) - len(BYTE_PIECES)
        counts = unigram.count_stretches(texts, self.config.character_coverage, size)
        return backend_of(*unigram.parts(self.learn(counts, size), self.special_tokens), self.special_tokens)

    def learn(self, counts: Mapping[str, int], size: int) -> Pieces:
        """Seeds; then by turns estimate and prune, until few enough are left."""
        if not counts:
            return {}
        longest, enough = self.config.max_piece_length, int(MARGIN * size)
        pieces = seeds(counts, self.config.min_frequency, longest)
        while True:
            for _ in range(N_EM_STEPS):
                pieces = maximise(expected_counts(counts, pieces, longest))
            if len(pieces) <= enough:
                return finish(pieces, size)
            pieces = prune(counts, pieces, max(enough, int(self.config.shrink * len(pieces))), longest)

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return UnigramEncoder(tokenizer)


build = UnigramTeaching


# ---------------------------------------------------------------- learning


def seeds(counts: Mapping[str, int], min_frequency: int, longest: int) -> Pieces:
    """Every character, and every string that occurs often enough, the most text first (1)."""
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                frequency[word[start:end]] += count
    # "becaus" is always followed by the same letter: wherever it stands, "because" is the better piece.
    followed: Counter[str] = Counter()
    for string, count in frequency.items():
        followed[string[:-1]] = max(followed[string[:-1]], count)
    covered = {
        string: count * len(string)
        for string, count in frequency.items()
        if len(string) == 1 or min_frequency <= count > followed[string]
    }
    ranked = sorted(covered, key=lambda string: (len(string) > 1, -covered[string], len(string), string))
    chosen = sorted(ranked[:N_SEEDS], key=lambda string: (len(string), string))
    total = math.log(sum(covered[string] for string in chosen))
    return {string: rounded(math.log(covered[string]) - total) for string in chosen}


def expected_counts(counts: Mapping[str, int], pieces: Pieces, longest: int) -> dict[str, float]:
    """E-step: how often each piece is expected in the corpus, over all segmentations of each word (2)."""
    expected = dict.fromkeys(pieces, 0.0)
    for word, count in counts.items():
        edges = lattice(word, pieces, longest)
        alpha, beta = forward(word, edges), backward(word, edges)
        for start, end, score in edges:
            share = math.exp(alpha[start] + score + beta[end] - alpha[-1])
            expected[word[start:end]] += count * share
    return expected


def maximise(expected: Mapping[str, float]) -> Pieces:
    """M-step: rare pieces go, the others get new log-probabilities; digamma favours few pieces (3)."""
    kept = {
        piece: max(count, LEAST_COUNT)
        for piece, count in expected.items()
        if len(piece) == 1 or round(count, 9) >= LEAST_COUNT
    }
    total = digamma(sum(kept.values()))
    return {piece: rounded(digamma(count) - total) for piece, count in kept.items()}


def prune(counts: Mapping[str, int], pieces: Pieces, n_kept: int, longest: int) -> Pieces:
    """Keep the pieces whose loss hurts most: how much less probable the corpus is without them (4)."""
    used: Counter[str] = Counter()
    for word, count in counts.items():
        for piece in viterbi(word, pieces, longest):
            used[piece] += count
    total = sum(used.values())
    losses = {piece: math.inf for piece in pieces if len(piece) == 1}  # nothing else can write them
    for piece in pieces:
        count = used[piece]
        if count and len(piece) > 1:  # without the piece, its occurrences are written in another way
            instead = viterbi(piece, pieces, len(piece) - 1)
            without = total + count * (len(instead) - 1)
            change = sum(math.log((used[other] + count) / without) for other in instead)
            losses[piece] = round(count * (math.log(count / total) - change), 6)
    kept = set(sorted(losses, key=lambda piece: -losses[piece])[:n_kept])
    return {piece: score for piece, score in pieces.items() if piece in kept}


def digamma(x: float) -> float:
    """The derivative of log Gamma, for x > 0: ten steps of psi(x) = psi(x + 1) - 1/x, then its series (5)."""
    y = x + 10
    series = 1 / 12 - (1 / 120 - (1 / 252 - (1 / 240 - 1 / 132 / y**2) / y**2) / y**2) / y**2
    return math.log(y) - 1 / (2 * y) - series / y**2 - sum(1 / (x + step) for step in range(10))


def rounded(score: float) -> float:
    """To a multiple of 2^-32. Sums of those are exact, so equally good paths are equal in every order."""
    return round(score * 2**32) / 2**32


# ---------------------------------------------------------------- encoding


class UnigramEncoder(WordEncoder):
    """Viterbi, word by word; a character that is no piece becomes its bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        first = len(tokenizer.special_ids) + len(BYTE_PIECES)  # no text spells the pieces before it
        vocabulary = self.model["vocab"]
        self.pieces: Pieces = dict(vocabulary[first:])
        self.ids = {piece: first + index for index, piece in enumerate(self.pieces)}
        self.longest = max(map(len, self.pieces), default=1)
        self.unknown = min(score for _, score in vocabulary) - UNKNOWN_PENALTY

    def encode_word(self, word: str) -> list[int]:
        ids: list[int] = []
        for piece in viterbi(word, self.pieces, self.longest, self.unknown):
            ids += (
                [self.ids[piece]] if piece in self.ids else [self.byte_ids[byte] for byte in piece.encode()]
            )
        return ids
