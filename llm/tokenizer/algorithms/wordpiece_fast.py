"""WordPiece, written by hand and fast, by frequency or by likelihood.

Equations   (1)-(4) in docs/tokenizer/algorithms/wordpiece_fast.md; comments below carry the same numbers
Source      Schuster & Nakajima 2012; Wu et al. 2016, arXiv 1609.08144, section 4.1; BERT, Devlin et al. 2019
Cost        train by frequency as bpe_fast; by likelihood one pass over all pairs for each merge; encode: one
            look-up per word that was seen before, a new word of w bytes O(w p) for pieces of at most p bytes
Differs     from BERT: words in bytes, nothing unknown, long words cut (llm/tokenizer/wordpiece.py)
Shapes      none: strings in, integers out
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import tokenizers

from llm.tokenizer.algorithms.base import Algorithm, Size, backend_of
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.byte_level import count_words, spell
from llm.tokenizer.encoder import Encoder, WordEncoder
from llm.tokenizer.merges import by_frequency, by_likelihood, learn
from llm.tokenizer.wordpiece import MAX_BYTES, PREFIX, alphabet, decoder, join, model, pre_tokenizer


@dataclass(frozen=True, kw_only=True)
class Config(Size):
    """vocab_size: special tokens + 256 bytes that begin a word, 256 that continue one + merged pieces.

    min_frequency: a rarer pair is not merged. score: what the next merge is chosen by; `likelihood` needs a
    min_frequency that grows with the corpus, or it merges the rarest pairs first.
    """

    score: Literal["frequency", "likelihood"] = "frequency"

    alphabet = "2 x 256 bytes"
    n_alphabet = 512


class FastWordPiece(Algorithm):
    """Byte-level WordPiece: incremental counts, a cache of words."""

    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        pieces = [*self.special_tokens, *alphabet()]
        learn(
            pieces,
            (
                ([part[0], *(PREFIX + character for character in part[1:])], count)
                for word, count in count_words(texts).items()
                for part in parts(spell(word))
            ),
            join=join,
            rule=by_likelihood if self.config.score == "likelihood" else by_frequency,  # (1), (2)
            vocab_size=self.config.vocab_size,
            min_count=self.config.min_frequency,
        )
        return backend_of(model(pieces), pre_tokenizer(), decoder(), self.special_tokens)

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return FastWordPieceEncoder(tokenizer)


class FastWordPieceEncoder(WordEncoder):
    """Longest match first (4), looking no further than the longest piece."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        vocabulary: dict[str, int] = self.model["vocab"]
        inside = {piece for piece in vocabulary if piece.startswith(PREFIX)}
        special = set(tokenizer.special_ids)
        self._first = {piece: vocabulary[piece] for piece in vocabulary.keys() - inside - special}
        self._inside = {piece.removeprefix(PREFIX): vocabulary[piece] for piece in inside}
        self._longest = max(map(len, [*self._first, *self._inside]))

    def encode_word(self, word: str) -> list[int]:
        return [index for part in parts(spell(word)) for index in self._encode_part(part)]

    def _encode_part(self, part: str) -> list[int]:
        found: list[int] = []
        ids, start = self._first, 0
        while start < len(part):
            end = min(len(part), start + self._longest)
            while part[start:end] not in ids:  # ends at one byte, which is always a piece
                end -= 1
            found.append(ids[part[start:end]])
            ids, start = self._inside, end
        return found


def parts(word: str) -> Iterable[str]:
    """A spelled word in parts of at most 100 bytes, each of which is a word of its own (3)."""
    return (word[start : start + MAX_BYTES] for start in range(0, len(word), MAX_BYTES))


build = FastWordPiece
