"""Exact: paragraphs are the same when their folded texts have the same hash; short ones are left alone.

Equations   (1) in docs/data/paragraphs/exact.md
Source      Wenzek et al. 2020, arXiv 1911.00359, section 3.1 (CCNet: paragraphs by the hash of their text)
Cost        O(bytes) to cut and hash; 16 bytes a paragraph that may go
Differs     from CCNet: paragraphs below `min_words` stay (speech such as "Yes," said she, occurs in many tales);
            the first occurrence stays too, in the document that is best by the keep-policy
Shapes      P paragraphs of a text that may be removed
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llm.data.dedup.base import fold
from llm.data.paragraphs.base import Paragraphs
from llm.data.words import words

_BORDERS = {"blank_line": re.compile(r"(\n[^\S\n]*(?:\n[^\S\n]*)+)"), "line": re.compile(r"(\n+)")}


@dataclass(frozen=True, kw_only=True)
class Config:
    """min_words: shorter paragraphs are never removed. split: what ends a paragraph."""

    min_words: int = 20
    split: Literal["blank_line", "line"] = "blank_line"

    def __post_init__(self) -> None:
        if self.min_words < 1:
            raise ValueError(f"min_words must be positive ({self.min_words})")


class ExactParagraphs(Paragraphs):
    """Equal 64-bit hash of the folded paragraph."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def hashes(self, text: str) -> NDArray[np.uint64]:
        digests = b"".join(_digest(part) for part in self._cut(text)[::2] if self._may_go(part))
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)

    def without(self, text: str, repeated: Sequence[bool]) -> str:
        """A paragraph goes with the border behind it; what stays is not touched."""
        parts = self._cut(text)
        marks = iter(repeated)
        stays = [not (self._may_go(part) and next(marks)) for part in parts[::2]]
        borders = [*parts[1::2], ""]
        left = "".join(
            part + border for part, border, stay in zip(parts[::2], borders, stays, strict=True) if stay
        )
        return left if stays[-1] else left.rstrip()

    def _cut(self, text: str) -> list[str]:
        """Paragraphs and the borders between them, in turn."""
        return _BORDERS[self.config.split].split(text)

    def _may_go(self, paragraph: str) -> bool:
        return len(words(paragraph)) >= self.config.min_words


def _digest(paragraph: str) -> bytes:
    return hashlib.blake2b(fold(paragraph).encode("utf-8", "surrogatepass"), digest_size=8).digest()  # (1)


build = ExactParagraphs
