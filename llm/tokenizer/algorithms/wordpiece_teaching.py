"""WordPiece in plain Python, to be read from top to bottom.

Like BPE it merges neighbours until the vocabulary is full. Two things differ. A piece knows whether it begins
a word or continues one: `‿ing` is `ing` inside a word. And encoding knows nothing of merges: it takes the
longest piece that fits, again and again.

Equations   (1)-(4) in docs/tokenizer/algorithms/wordpiece_teaching.md; comments carry the same numbers
Source      Schuster & Nakajima 2012 (training by likelihood); Wu et al. 2016, arXiv 1609.08144, section 4.1;
            longest match: Devlin et al. 2019 (BERT), tokenization.py
Cost        train O(merges x bytes of distinct words); encode O(w^2) per word of w bytes
Differs     from BERT: words are spelled in bytes, so nothing is unknown, and no text is changed (no lower case, no
            spaces lost); the prefix is `‿`, which is no byte's character: `##` could also be two hashes of a text;
            words are cut every 100 bytes, where BERT gives up and writes [UNK]
Shapes      none: strings in, integers out
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import tokenizers

from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.byte_level import ALPHABET, spelled_words
from llm.tokenizer.encoder import Encoder
from llm.tokenizer.wordpiece import MAX_BYTES, PREFIX, decoder, model, pre_tokenizer

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Config(Size):
    """vocab_size: special tokens + 256 bytes that begin a word, 256 that continue one + merged pieces.

    min_frequency: a rarer pair is not merged. score: what the next merge is chosen by; `likelihood` needs a
    min_frequency that grows with the corpus, or it merges the rarest pairs first.
    """

    score: Literal["frequency", "likelihood"] = "frequency"

    alphabet = "2 x 256 bytes"
    n_alphabet = 512


def train(
    texts: Iterable[str], *, vocab_size: int, min_frequency: int, special_tokens: Sequence[str], score: str
) -> list[str]:
    """Learn pieces until there are `vocab_size` or no pair occurs `min_frequency` times."""
    counts = Counter(part for text in texts for word in spelled_words(text) for part in parts(word))
    pieces = [*special_tokens, *(PREFIX + character for character in ALPHABET), *ALPHABET]
    ids = {piece: index for index, piece in enumerate(pieces)}
    words = [([word[0], *(PREFIX + character for character in word[1:])], n) for word, n in counts.items()]
    while len(pieces) < vocab_size:
        pairs, single = count(words)
        # (1), (2) the best score; a tie: the most frequent pair, then the smallest ids
        best = min(
            (pair for pair in pairs if pairs[pair] >= min_frequency),
            key=lambda pair: (
                -pairs[pair] / (single[pair[0]] * single[pair[1]]) if score == "likelihood" else 0.0,
                -pairs[pair],
                ids[pair[0]],
                ids[pair[1]],
            ),
            default=None,
        )
        if best is None:
            break
        piece = best[0] + best[1].removeprefix(PREFIX)
        if piece not in ids:
            ids[piece] = len(pieces)
            pieces.append(piece)
        words = [(merge(word, best, piece), n) for word, n in words]
    return pieces


def parts(word: str) -> list[str]:
    """A spelled word in parts of at most 100 bytes, each of which is a word of its own (3)."""
    return [word[start : start + MAX_BYTES] for start in range(0, len(word), MAX_BYTES)]


def count(words: Iterable[tuple[list[str], int]]) -> tuple[Counter[Pair], Counter[str]]:
    """How often each pair of neighbours and each piece occurs."""
    pairs: Counter[Pair] = Counter()
    single: Counter[str] = Counter()
    for word, n in words:
        for piece in word:
            single[piece] += n
        for pair in itertools.pairwise(word):
            pairs[pair] += n
    return pairs, single


def merge(word: list[str], pair: Pair, piece: str) -> list[str]:
    """Replace `pair` by `piece`, from left to right."""
    merged: list[str] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(piece)
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def encode(text: str, ids: dict[str, int]) -> list[int]:
    """Ids of a text."""
    return [index for word in spelled_words(text) for part in parts(word) for index in encode_word(part, ids)]


def encode_word(word: str, ids: dict[str, int]) -> list[int]:
    """Take the longest piece that the rest of the word begins with, until nothing is left (4)."""
    found = []
    start = 0
    while start < len(word):
        prefix = PREFIX if start else ""
        end = len(word)
        while prefix + word[start:end] not in ids:  # ends at one byte, which is always a piece
            end -= 1
        found.append(ids[prefix + word[start:end]])
        start = end
    return found


# ---------------------------------------------------------------- the same as a kind of the pipeline


class TeachingWordPiece(Algorithm):
    """The functions above behind the interface of every kind."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        pieces = train(
            texts,
            vocab_size=self.config.vocab_size,
            min_frequency=self.config.min_frequency,
            special_tokens=self.special_tokens,
            score=self.config.score,
        )
        return backend_of(model(pieces), pre_tokenizer(), decoder(), self.special_tokens)

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return TeachingEncoder(tokenizer)


class TeachingEncoder(Encoder):
    def encode_valid(self, texts: Sequence[str]) -> list[list[int]]:
        return [encode(text, self.model["vocab"]) for text in texts]


build = TeachingWordPiece
