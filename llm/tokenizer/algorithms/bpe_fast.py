"""BPE, written by hand and fast: the merges and ids of the library, at about its speed.

Equations   (1)-(3) in docs/tokenizer/algorithms/bpe_fast.md; comments below carry the same numbers
Source      Sennrich et al. 2016, arXiv 1508.07909, algorithm 1; bytes and words as in GPT-2
Cost        train: counting words, then every byte of a different word is merged away once, each time O(w + log n);
            encode: one look-up per word that was seen before, O(w log w) for a new word of w bytes
Differs     from Sennrich et al.: bytes instead of characters, ties broken by id (they leave it open)
Shapes      none: strings in, integers out
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from operator import add

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.byte_level import ALPHABET, count_words, spell
from llm.tokenizer.encoder import Encoder, WordEncoder
from llm.tokenizer.merges import Pair, by_frequency, learn


@dataclass(frozen=True, kw_only=True)
class Config(Size):
    """vocab_size: special tokens + 256 bytes + merges. min_frequency: a rarer pair is not merged."""


class FastBPE(Algorithm):
    """Byte-level BPE: incremental counts, a lazy heap, a cache of words."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        tokens = [*self.special_tokens, *ALPHABET]
        merges = learn(
            tokens,
            ((list(spell(word)), count) for word, count in count_words(texts).items()),
            join=add,
            rule=by_frequency,
            vocab_size=self.config.vocab_size,
            min_count=self.config.min_frequency,
        )
        ids = {token: index for index, token in enumerate(tokens)}
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return backend_of(models.BPE(ids, merges), words, decoders.ByteLevel(), self.special_tokens)

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return FastBPEEncoder(tokenizer)


class FastBPEEncoder(WordEncoder):
    """Applies merges in the order they were learned (3)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        ids = self.model["vocab"]
        self._pairs: list[Pair] = [(ids[left], ids[right]) for left, right in self.model["merges"]]
        self._tokens: list[int] = [ids[left + right] for left, right in self.model["merges"]]
        self._ranks = {pair: rank for rank, pair in enumerate(self._pairs)}

    def encode_word(self, word: str) -> list[int]:
        """A heap of (rank, place), so that no pair is looked at again unless it changed."""
        ids = [self.byte_ids[byte] for byte in word.encode()]
        end = len(ids)
        after, before = list(range(1, end + 1)), list(range(-1, end - 1))
        heap = [(self._ranks[p], i) for i, p in enumerate(pairwise(ids)) if p in self._ranks]
        heapq.heapify(heap)
        while heap:
            rank, place = heapq.heappop(heap)
            other = after[place]
            if other == end or (ids[place], ids[other]) != self._pairs[rank]:
                continue  # one of the two was merged with its other neighbour meanwhile
            # The new token takes the left place; the right one is linked out of the row.
            ids[place], ids[other] = self._tokens[rank], -1
            after[place] = after[other]
            if after[place] < end:
                before[after[place]] = place
            for left, right in ((before[place], place), (place, after[place])):
                if left >= 0 and right < end and (ids[left], ids[right]) in self._ranks:
                    heapq.heappush(heap, (self._ranks[ids[left], ids[right]], left))
        return [index for index in ids if index >= 0]


build = FastBPE
