"""BPE in plain Python, to be read from top to bottom.

The rules are exactly those of the `tokenizers` library that the `bpe` kind uses: merges and ids are equal (a
test compares them), only the speed is not. Training counts all pairs again for every merge; what bpe_fast.py
adds is bookkeeping, so that only words that hold the merged pair are counted again.

Equations   (1)-(3) in docs/tokenizer/algorithms/bpe_teaching.md; comments below carry the same numbers.
Source      Sennrich et al. 2016, arXiv 1508.07909, algorithm 1; bytes as characters: GPT-2's encoder.py;
            dropout: Provilkov et al. 2020, arXiv 1910.13267, algorithm 1
Cost        train O(merges x bytes of distinct words); encode O(w^2) per word of w bytes
Differs     from Sennrich et al.: bytes instead of characters, ties broken by id (they leave it open)
Shapes      none: strings in, integers out
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.byte_level import ALPHABET, spelled_words, unspell
from llm.tokenizer.encoder import Encoder

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Config(Size):
    """vocab_size: special tokens + 256 bytes + merges. min_frequency: a rarer pair is not merged."""


@dataclass
class Vocabulary:
    """tokens: strings in id order. merges: pairs of ids in the order they were learned -> id they become."""

    tokens: list[str]
    merges: dict[Pair, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}


def train(
    texts: Iterable[str], *, vocab_size: int, min_frequency: int, special_tokens: Sequence[str]
) -> Vocabulary:
    """Learn merges until the vocabulary is full or no pair occurs `min_frequency` times."""
    # A corpus of n words has far fewer different words: count them once, then work on the different ones.
    counts = Counter(word for text in texts for word in spelled_words(text))
    tokens = [*special_tokens, *ALPHABET]
    ids = {token: index for index, token in enumerate(tokens)}
    spelled = [([ids[character] for character in word], count) for word, count in counts.items()]
    merges: dict[Pair, int] = {}
    while len(tokens) < vocab_size:
        pairs = count_pairs(spelled)
        if not pairs:
            break
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair))  # (2) most frequent; a tie: smallest ids
        if pairs[pair] < min_frequency:
            break
        token = tokens[pair[0]] + tokens[pair[1]]
        if token not in ids:  # a string that is a token already keeps its id
            ids[token] = len(tokens)
            tokens.append(token)
        merges[pair] = ids[token]
        spelled = [(merge(word, pair, ids[token]), count) for word, count in spelled]
    return Vocabulary(tokens, merges)


def encode(text: str, vocabulary: Vocabulary) -> list[int]:
    """Ids of a text: spell each word in bytes, then redo the merges in the order they were learned."""
    return [index for word in spelled_words(text) for index in encode_word(word, vocabulary)]


def decode(ids: Iterable[int], vocabulary: Vocabulary) -> str:
    """Text of ids; bytes that are not UTF-8 become U+FFFD. Special tokens are written as they are."""
    spelling = "".join(vocabulary.tokens[index] for index in ids)
    return unspell(spelling).decode("utf-8", errors="replace")


def count_pairs(spelled: Iterable[tuple[list[int], int]]) -> Counter[Pair]:
    """How often each pair of neighbours occurs in the corpus (1)."""
    pairs: Counter[Pair] = Counter()
    for word, count in spelled:
        for pair in itertools.pairwise(word):
            pairs[pair] += count
    return pairs


def merge(word: list[int], pair: Pair, token: int) -> list[int]:
    """Replace `pair` by `token`, from left to right; in `aaa` the pair `aa` is found once."""
    merged: list[int] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(token)
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def encode_word(word: str, vocabulary: Vocabulary) -> list[int]:
    """Merge the pair that was learned first, until no learned pair is left (3)."""
    ids = [vocabulary.ids[character] for character in word]
    while True:
        learned = [pair for pair in itertools.pairwise(ids) if pair in vocabulary.ranks]
        if not learned:
            return ids
        first = min(learned, key=vocabulary.ranks.__getitem__)
        ids = merge(ids, first, vocabulary.merges[first])


def encode_word_with_dropout(
    word: str, vocabulary: Vocabulary, dropout: float, rng: random.Random
) -> list[int]:
    """Forget each possible merge with probability `dropout`, anew at every step, and so see a word in many ways."""
    ids = [vocabulary.ids[character] for character in word]
    while True:
        places = [
            (vocabulary.ranks[pair], place, pair)
            for place, pair in enumerate(itertools.pairwise(ids))
            if pair in vocabulary.ranks and rng.random() >= dropout
        ]
        if not places:
            return ids
        _, place, pair = min(places)
        ids[place : place + 2] = [vocabulary.merges[pair]]


# ---------------------------------------------------------------- the same as a kind of the pipeline


class TeachingBPE(Algorithm):
    """The functions above behind the interface of every kind."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        found = train(
            texts,
            vocab_size=self.config.vocab_size,
            min_frequency=self.config.min_frequency,
            special_tokens=self.special_tokens,
        )
        merges = [(found.tokens[left], found.tokens[right]) for left, right in found.merges]
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return backend_of(models.BPE(found.ids, merges), words, decoders.ByteLevel(), self.special_tokens)

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return TeachingEncoder(tokenizer)


class TeachingEncoder(Encoder):
    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        ids = self.model["vocab"]
        merges = {(ids[left], ids[right]): ids[left + right] for left, right in self.model["merges"]}
        self.vocabulary = Vocabulary(tokenizer.pieces(), merges)

    def encode_valid(self, texts: Sequence[str]) -> list[list[int]]:
        return [encode(text, self.vocabulary) for text in texts]


build = TeachingBPE
