"""text_stats: what several rules about quality count: tokens, repeated lines, shares.

Equations   none; the definitions are listed in docs/data/text_stats.md
Source      the rules that use them: Gopher, C4, FineWeb as in the library datatrove; tokens as in spaCy's English
Cost        O(characters), one regular expression
Differs     from spaCy: one expression instead of tables of exceptions; agreement is measured on the page
Shapes      none
"""

import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.words import NO_SPACES

# What is judged, its value, the lowest and the highest one allowed.
Rule = tuple[str, float, float, float]

ELLIPSIS = re.compile(r"\.{3}|…")
ENDS_IN_ELLIPSIS = re.compile(r".*(?:\.{3}|…)\s*$", re.DOTALL)

_PART = rf"[^\W_{NO_SPACES}]+"
_CLITIC = r"['’](?:s|re|ve|ll|m|d)\b"
_TOKEN = re.compile(
    rf"""
    [{NO_SPACES}]                                      # each Chinese character is a token
    | (?:Mr|Mrs|Ms|Dr|St|Jr|Prof)\. | (?:[A-Za-z]\.){{2,}}  # Mr. U.S.
    | [^\W\d_{NO_SPACES}]+?(?=n['’]t\b) | n['’]t\b     # do n't
    | {_CLITIC}
    | {_PART}(?:(?:
          (?!{_CLITIC})['’]                             # o'clock
        | (?<![a-z](?=[.][A-Z]))[.]                     # 3.14, google.com, not end.Start
        | (?<=\d)[,:/](?=\d) | (?<=[^\W\d])-(?=\d)      # 1,000 10:30 covid-19
        | [_@&])
      {_PART})*
    | \.{{2,}} | -{{2,}} | \S                           # ... -- and any other sign alone
    """,
    re.VERBOSE,
)


def tokens(text: str) -> list[str]:
    """Words and punctuation marks in order: `He didn't.` is He, did, n't and a full stop."""
    return _TOKEN.findall(text)


@lru_cache(maxsize=1 << 16)
def is_word(token: str) -> bool:
    """Whether a token holds anything else than punctuation and ASCII signs."""
    return any(c not in string.punctuation and unicodedata.category(c)[0] not in "PC" for c in token)


@lru_cache(maxsize=1 << 16)
def has_letter(token: str) -> bool:
    """Whether a token holds a letter of any script."""
    return any(map(str.isalpha, token))


def share(items: Sequence[str], test: Callable[[str], Any]) -> float:
    """Share of the items that pass a test; 0 of none."""
    return sum(1 for item in items if test(item)) / max(1, len(items))


def duplicates(items: Sequence[str]) -> tuple[int, int]:
    """How many items occurred before in the list, and their characters."""
    seen: set[str] = set()
    count = chars = 0
    for item in items:
        if item in seen:
            count += 1
            chars += len(item)
        seen.add(item)
    return count, chars


def numbered(found: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Words as numbers from 0 in order of appearance, and their lengths in characters."""
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(found))}
    ids_W = np.array([vocabulary[word] for word in found], dtype=np.int64)
    return ids_W, np.array([len(word) for word in found], dtype=np.int64)


def first_broken(rules: Iterable[Rule]) -> tuple[str, float] | None:
    """Reason and value of the first rule whose value lies outside its limits; later ones are not computed."""
    for reason, value, low, high in rules:
        if not low <= value <= high:
            return reason, value
    return None


def check_fractions(config: Any) -> None:
    """Raise ValueError for a field `…_frac` outside [0, 1]."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_frac") and not 0.0 <= value <= 1.0:
            raise ValueError(f"{field.name} ({value}) must lie in [0, 1]")
