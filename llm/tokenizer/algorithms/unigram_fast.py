"""Unigram, written by hand and fast: numpy trains over all words at once, a cache of words encodes.

Equations   (1)-(5) in docs/tokenizer/algorithms/unigram_teaching.md, (1)-(3) in docs/tokenizer/lattice.md
Source      Kudo 2018, arXiv 1804.10959; SentencePiece, Kudo and Richardson 2018, arXiv 1808.06226
Cost        train as unigram_training.py; encode one look-up per word that was seen before, a new word of w
            characters O(w L) look-ups, L the longest piece that begins with the character at hand
Differs     from SentencePiece: as unigram_teaching.py, whose pieces and scores it learns; from the library: nothing,
            the ids are equal
Shapes      none: strings in, integers out
"""

from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers

from llm.tokenizer import unigram, unigram_training
from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.encoder import Encoder, WordEncoder
from llm.tokenizer.unigram import BYTE_PIECES, UNKNOWN_PENALTY, Learning


@dataclass(frozen=True, kw_only=True)
class Config(Size, Learning):
    """vocab_size: special tokens + 256 bytes + pieces. min_frequency: a rarer string is no candidate."""

    def __post_init__(self) -> None:
        Size.__post_init__(self)
        Learning.__post_init__(self)


class FastUnigram(Algorithm):
    """The vocabulary of `unigram` and an encoder of its own."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        size = self.config.vocab_size - len(self.special_tokens) - len(BYTE_PIECES)
        counts = unigram.count_stretches(texts, self.config.character_coverage, size)
        pieces = unigram_training.learn(counts, size, self.config.min_frequency, self.config)
        return backend_of(*unigram.parts(pieces, self.special_tokens), self.special_tokens)

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return FastUnigramEncoder(tokenizer)


build = FastUnigram


class FastUnigramEncoder(WordEncoder):
    """Viterbi over one word (3)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        n_others = len(tokenizer.special_ids) + len(BYTE_PIECES)  # no text spells these
        vocabulary: list[tuple[str, float]] = self.model["vocab"]
        self._pieces = {
            piece: (score, n_others + index) for index, (piece, score) in enumerate(vocabulary[n_others:])
        }
        self._reach: dict[str, int] = {}
        for piece in self._pieces:
            self._reach[piece[0]] = max(self._reach.get(piece[0], 0), len(piece))
        self._unknown = min(score for _, score in vocabulary) - UNKNOWN_PENALTY

    def encode_word(self, word: str) -> list[int]:
        n, pieces, reach = len(word), self._pieces, self._reach
        best = [0.0] + [float("-inf")] * n
        origin, last = [0] * (n + 1), [-1] * (n + 1)  # where the last piece begins, its id; -1: bytes
        for start, letter in enumerate(word):
            here = best[start]
            for end in range(start + 1, min(n, start + reach.get(letter, 0)) + 1):
                found = pieces.get(word[start:end])
                # Starts go up, so of equal paths the first, with the longest last piece, stays.
                if found and here + found[0] > best[end]:
                    best[end], origin[end], last[end] = here + found[0], start, found[1]
            if letter not in pieces and here + self._unknown > best[start + 1]:
                best[start + 1], origin[start + 1], last[start + 1] = here + self._unknown, start, -1
        return self._walk(word, origin, last)

    def _walk(self, word: str, origin: list[int], last: list[int]) -> list[int]:
        """Ids on the best path, from the end backwards."""
        ids: list[int] = []
        end = len(word)
        while end:
            if last[end] < 0:
                ids += [self.byte_ids[byte] for byte in reversed(word[end - 1].encode())]
            else:
                ids.append(last[end])
            end = origin[end]
        return ids[::-1]
