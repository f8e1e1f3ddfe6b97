"""teaching_bpe: byte-level BPE in plain Python, to be read from top to bottom.

The rules are exactly those of the `tokenizers` library that the `bpe` kind uses: merges and ids are equal (a
test compares them), only the speed is not. Training counts all pairs again for every merge; what a fast
implementation adds is bookkeeping, so that only words that hold the merged pair are counted again.

Equations   (1)-(3) in docs/tokenizer/teaching_bpe.md; comments below carry the same numbers.
Source      Sennrich et al. 2016, arXiv 1508.07909, algorithm 1; bytes as characters: GPT-2's encoder.py
Cost        train O(merges x bytes of distinct words); encode O(w^2) per word of w bytes
Differs     from Sennrich et al.: bytes instead of characters, ties broken by id (they leave it open)
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import regex

Pair = tuple[int, int]

# GPT-2's idea of a word: a contraction, or letters, digits or punctuation with the space before them, or
# white space, of which the last blank is left to the word after it.
WORD = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def byte_characters() -> list[str]:
    """One printable character for each of the 256 bytes, so that every token can be written down as text.

    Printable bytes stand for themselves; the other 68 get U+0100, U+0101, … in order (a space becomes Ġ).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(0x100, 0x100 + 256))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_TO_CHARACTER = byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}


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
    counts = Counter(word for text in texts for word in words(text))
    tokens = [*special_tokens, *sorted(BYTE_TO_CHARACTER)]
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
    return [index for word in words(text) for index in encode_word(word, vocabulary)]


def decode(ids: Iterable[int], vocabulary: Vocabulary) -> str:
    """Text of ids; bytes that are not UTF-8 become U+FFFD. Special tokens are written as they are."""
    spelling = "".join(vocabulary.tokens[index] for index in ids)
    return bytes(CHARACTER_TO_BYTE[character] for character in spelling).decode("utf-8", errors="replace")


def words(text: str) -> Iterable[str]:
    """The words of a text, each spelled with one character a byte; joined they are the whole text."""
    for word in WORD.findall(text):
        yield "".join(BYTE_TO_CHARACTER[byte] for byte in word.encode())


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
