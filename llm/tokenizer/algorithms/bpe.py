"""BPE: from the 256 bytes on, merge the most frequent pair of neighbours into a new token, again and again.

Equations   (1)-(2) in docs/tokenizer/algorithms/bpe.md
Source      Gage 1994; Sennrich et al. 2016, arXiv 1508.07909; bytes and pre-tokenisation as in GPT-2,
            Radford et al. 2019, section 2.2
Cost        train O(n log n) for n characters of distinct words (heap of pairs, inverted index pair -> words);
            encode O(w log w) per word of w bytes, cached per word; state: vocab_size tokens and their merges
Differs     from the papers: nothing; the `tokenizers` library does the work. The same rules written out, equal
            merge by merge and id by id: bpe_teaching.py to be read, bpe_fast.py to be used
Shapes      none: strings in, integers out
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of


@dataclass(frozen=True, kw_only=True)
class Config(Size):
    """vocab_size: special tokens + 256 bytes + merges. min_frequency: a rarer pair is not merged."""


class BytePairEncoding(Algorithm):
    """Byte-level BPE: any text is a sequence of bytes, so nothing is ever unknown."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        # Words as in GPT-2: a space belongs to the word after it; letters, digits and punctuation never mix.
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend = backend_of(models.BPE(), words, decoders.ByteLevel())
        trainer = trainers.BpeTrainer(
            vocab_size=self.config.vocab_size,
            min_frequency=self.config.min_frequency,
            special_tokens=list(self.special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=sys.stderr.isatty(),
        )
        backend.train_from_iterator(texts, trainer)
        return backend


build = BytePairEncoding
