"""words: the one definition of a word that de-duplication, filters and analysis share.

A word is a run of letters and digits, lower-cased, with inner apostrophes (`don't`) kept; punctuation and
underscores separate words. Chinese characters and kana write no spaces, so there each character is a word.
The speaker mark of a chat line (`A: `) is no word.
"""

import re

# Kana without the middle dot and the double hyphen between them, Han and its compatibility block.
NO_SPACES = "\u3040-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{NO_SPACES}]|[^\W_{NO_SPACES}]+(?:['’][^\W_{NO_SPACES}]+)*")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
_SPEAKER = re.compile(r"^[A-Z]: ", re.MULTILINE)


def words(text: str) -> list[str]:
    """The words of `text` in order."""
    text = without_speakers(text).lower()
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def without_speakers(text: str) -> str:
    """The text without the marks that say who speaks."""
    return _SPEAKER.sub("", text)
