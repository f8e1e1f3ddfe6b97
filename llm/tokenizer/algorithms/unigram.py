"""Unigram: pieces with probabilities; a word is cut in the most probable way. The library encodes.

Equations   (1)-(5) in docs/tokenizer/algorithms/unigram_teaching.md, (1)-(3) in docs/tokenizer/lattice.md
Source      Kudo 2018, arXiv 1804.10959; SentencePiece, Kudo and Richardson 2018, arXiv 1808.06226
Cost        train about 20 passes over the characters of distinct words; encode O(w L) per word of w characters with
            pieces of at most L, in Rust; state: vocab_size pieces with scores
Differs     the library encodes but does not train: its trainer adds up in the order of a hash table, so its
            scores, and with them the order of ids, are others in every process
Shapes      none: strings in, integers out
"""

from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers

from llm.tokenizer import unigram, unigram_training
from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.unigram import Learning


@dataclass(frozen=True, kw_only=True)
class Config(Size, Learning):
    """vocab_size: special tokens + 256 bytes + pieces. min_frequency: a rarer string is no candidate."""

    def __post_init__(self) -> None:
        Size.__post_init__(self)
        Learning.__post_init__(self)


class Unigram(Algorithm):
    """Trained by the project's own fast trainer, encoded with by the `tokenizers` library."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        size = self.config.vocab_size - len(self.special_tokens) - len(unigram.BYTE_PIECES)
        counts = unigram.count_stretches(texts, self.config.character_coverage, size)
        pieces = unigram_training.learn(counts, size, self.config.min_frequency, self.config)
        return backend_of(*unigram.parts(pieces, self.special_tokens), self.special_tokens)


build = Unigram
