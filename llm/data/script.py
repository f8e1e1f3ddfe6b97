"""script: which script the letters of a text are written in, and what that says about its language.

Two languages are told apart, by one number: the share of Han characters among the letters. That is enough for
a corpus of English and Chinese and nothing more; French counts as `en`, Japanese written mostly in kanji as `zh`.
"""

from collections import Counter
from functools import lru_cache
from string import ascii_letters
from typing import Literal

Script = Literal["latin", "han", "other"]
Language = Literal["en", "zh"]

SCRIPTS: tuple[Script, ...] = ("latin", "han", "other")

# First and last code points. Han: the unified ideographs with their extensions A to H, and the compatibility block.
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_LATIN = ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x24F), (0x1E00, 0x1EFF))
_NO_ASCII_LETTERS = str.maketrans("", "", ascii_letters)


def letters(text: str) -> Counter[Script]:
    """Letters of `text` by script; digits, marks and white space are no letters."""
    if text.isascii():
        return Counter({"latin": len(text) - len(text.translate(_NO_ASCII_LETTERS))})
    found: Counter[Script] = Counter()
    for character, count in Counter(text).items():
        script = script_of(character)
        if script:
            found[script] += count
    return found


def language(text: str) -> Language:
    """`zh` where more than half of the letters are Han characters, else `en`."""
    return language_of(letters(text))


def language_of(found: Counter[Script]) -> Language:
    """The language of a text whose letters are counted already."""
    return "zh" if found["han"] * 2 > found.total() else "en"


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> Script | None:
    """The script of one character; None when it is no letter."""
    if not character.isalpha():
        return None
    code = ord(character)
    if any(low <= code <= high for low, high in _LATIN):
        return "latin"
    return "han" if any(low <= code <= high for low, high in _HAN) else "other"
