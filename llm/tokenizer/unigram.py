"""unigram: what the three unigram kinds share: params, words, alphabet, and how pieces are written.

Pieces are spelled in characters, a real space among them, so no mark has to stand for it and none can be
confused with it. Characters outside the alphabet are written as their bytes, `<0x00>` to `<0xFF>`. A text cannot
spell such a piece: the pattern that cuts words cuts `<0xE4>` into `<`, `0`, `xE`, `4`, `>`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex
from tokenizers import Regex, decoders, models, pre_tokenizers

from llm.tokenizer.byte_level import WORD, count_words

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
UNKNOWN_PENALTY = 10.0  # a character that is no piece costs this much more than the worst piece
LONGEST_WORD = 256  # characters that are learned from in one stretch

# SentencePiece's constants of learning.
N_SEEDS = 1_000_000
N_EM_STEPS = 2  # between two rounds of pruning
MARGIN = 1.1  # pruning stops at this multiple of the size asked; the last pieces go by probability
LEAST_COUNT = 0.5  # a piece expected less often than this is dropped


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Params of every unigram kind besides `Size`; the defaults are SentencePiece's.

    character_coverage: the most frequent characters that make up this share of the text are always pieces,
    the others are written in bytes. shrink: share of the pieces that outlives a round of pruning.
    max_piece_length: in characters.
    """

    character_coverage: float = 0.9995
    shrink: float = 0.75
    max_piece_length: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.character_coverage <= 1:
            raise ValueError(f"character_coverage ({self.character_coverage}) must be above 0, at most 1")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink ({self.shrink}) must be between 0 and 1")
        if self.max_piece_length < 1:
            raise ValueError(f"max_piece_length ({self.max_piece_length}) must be at least 1")


def count_stretches(texts: Iterable[str], coverage: float, room: int) -> dict[str, int]:
    """What is learned from: how often each word occurs, cut where a character is outside the alphabet."""
    words = count_words(texts)
    return stretches(words, choose_alphabet(words, coverage, room))


def choose_alphabet(counts: Mapping[str, int], coverage: float, room: int) -> set[str]:
    """The most frequent characters that make up `coverage` of the text, at most `room` of them."""
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            frequency[character] += count
    total, covered = sum(frequency.values()), 0
    alphabet: set[str] = set()
    for character in sorted(frequency, key=lambda character: (-frequency[character], character))[:room]:
        if covered >= coverage * total:
            break
        alphabet.add(character)
        covered += frequency[character]
    return alphabet


def stretches(counts: Mapping[str, int], alphabet: set[str]) -> dict[str, int]:
    """Words cut where a character is outside the alphabet, with their counts, in alphabetical order.

    No piece can hold such a character, so the stretches between them are independent of each other. What is
    longer than `LONGEST_WORD` (lines of dashes, of spaces) is cut as well.
    """
    if not alphabet:
        return {}
    letters = "".join(regex.escape(character) for character in sorted(alphabet))
    inside = regex.compile(f"[{letters}]{{1,{LONGEST_WORD}}}")
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for stretch in inside.findall(word):
            found[stretch] += count
    return dict(sorted(found.items()))


def finish(pieces: Mapping[str, float], size: int) -> dict[str, float]:
    """All characters, then the most probable of the others, up to `size` of them."""
    ranked = sorted(pieces, key=lambda piece: (len(piece) > 1, -pieces[piece], piece))
    return {piece: pieces[piece] for piece in ranked[:size]}


def parts(pieces: Mapping[str, float], special_tokens: Sequence[str]) -> tuple[Any, Any, Any]:
    """Model, pre-tokenizer and decoder of the library for these pieces.

    Ids: special tokens, bytes, then pieces from the most to the least probable; ties by spelling. The library
    wants a piece to stand for what is unknown. With all bytes there it never gets into an encoding; the first
    byte is named for it.
    """
    others = (*special_tokens, *BYTE_PIECES)
    ranked = sorted(pieces.items(), key=lambda item: (-item[1], item[0]))
    vocabulary = [*((piece, 0.0) for piece in others), *ranked]
    model = models.Unigram(vocabulary, unk_id=len(special_tokens), byte_fallback=True)
    words = pre_tokenizers.Split(Regex(WORD.pattern), behavior="isolated")
    return model, words, decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
