"""byte_level: words as GPT-2 cuts them, and one printable character for each byte.

Shared by every kind: merges and pieces never cross the border of a word, and BPE and WordPiece spell words in
these characters, so that a vocabulary of 256 of them can write anything.

Source      Radford et al. 2019 (GPT-2): the pattern and the alphabet of encoder.py
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import regex

# A word is a contraction, or letters, digits or punctuation with the space before them, or white space, of
# which the last blank is left to the word after it. Joined, the words of a text are the text.
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
ALPHABET = sorted(BYTE_TO_CHARACTER)  # the order in which the `tokenizers` library gives them ids


def spell(word: str) -> str:
    """A word with one character a byte of its UTF-8: " é" becomes "ĠÃ©"."""
    return "".join([BYTE_TO_CHARACTER[byte] for byte in word.encode()])


def unspell(piece: str) -> bytes:
    """The bytes of a spelled piece; raises KeyError for a character that stands for no byte."""
    return bytes([CHARACTER_TO_BYTE[character] for character in piece])


def spelled_words(text: str) -> Iterator[str]:
    """The words of a text, spelled; joined they are the whole text."""
    return map(spell, WORD.findall(text))


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs. A corpus of n words has far fewer different ones: training works on those."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text))
    return counts
