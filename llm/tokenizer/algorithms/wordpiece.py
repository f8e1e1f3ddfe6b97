"""WordPiece by the `tokenizers` library: merges as in BPE, pieces that know whether they begin a word, longest match.

Equations   (1)-(2) in docs/tokenizer/algorithms/wordpiece.md
Source      Schuster & Nakajima 2012; Wu et al. 2016, arXiv 1609.08144, section 4.1; BERT, Devlin et al. 2019
Cost        train as BPE; encode O(w^2) per word of w bytes, w at most 100; state: vocab_size pieces
Differs     from the papers: the library merges the most frequent pair, not the one that raises the likelihood most
            (wordpiece_fast.py can do both); words are spelled in bytes, so nothing is unknown. From the library's
            defaults: see llm/tokenizer/wordpiece.py, and `train` for equal results in every process
Shapes      none: strings in, integers out
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import pre_tokenizers, trainers

from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.byte_level import ALPHABET
from llm.tokenizer.wordpiece import PREFIX, decoder, model, pre_tokenizer


@dataclass(frozen=True, kw_only=True)
class Config(Size):
    """vocab_size: special tokens + 256 bytes that begin a word, 256 that continue one + merged pieces.

    min_frequency: a rarer pair is not merged.
    """

    alphabet = "2 x 256 bytes"
    n_alphabet = 512


class WordPiece(Algorithm):
    """Byte-level WordPiece, by frequency."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        backend = backend_of(model([]), pre_tokenizer(), decoder())
        # Left alone, the trainer numbers the pieces `‿a` in the order of a hash table, which differs from process
        # to process; ties between pairs go by these numbers, and so the merges differ too. Named as special
        # tokens the pieces get their numbers beforehand. They are none: the vocabulary is put into a new backend.
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.config.vocab_size,
            min_frequency=self.config.min_frequency,
            special_tokens=[*self.special_tokens, *(PREFIX + character for character in ALPHABET)],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            continuing_subword_prefix=PREFIX,
            show_progress=sys.stderr.isatty(),
        )
        backend.train_from_iterator(texts, trainer)
        ids: dict[str, int] = json.loads(backend.to_str())["model"]["vocab"]
        pieces = sorted(ids, key=ids.__getitem__)
        return backend_of(model(pieces), pre_tokenizer(), decoder(), self.special_tokens)


build = WordPiece
