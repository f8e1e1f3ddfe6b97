"""base: the interface of a way to cut long documents, and the recursion that three of them share.

Positions count the tokens a model reads. A chunk (start, end) becomes a piece of a row that also holds
token `end`, its last target; the next chunk begins there.

Equations   (1)-(2) in docs/data/chunking/base.md; comments below carry the same numbers.
Shapes      n tokens to read
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np

from llm.data.token_text import TokenText

Chunks = list[tuple[int, int]]


class Chunker(ABC):
    """Cuts a document that is longer than a row.

    reads_text: `cut` wants the text of the tokens. covers: every token lies in a chunk.
    overlap: tokens before its own that each later chunk reads again, as context.
    """

    reads_text: ClassVar[bool] = False
    covers: ClassVar[bool] = True
    overlap: int = 0

    @abstractmethod
    def cut(self, n: int, size: int, text: TokenText | None = None) -> Chunks:
        """Chunks (start, end) of at most `size` of the n tokens, in order, none empty.

        They cover 0 to n, and each begins `overlap` tokens before the end of the one before; what a kind does
        otherwise its page says.
        """


def text_of(text: TokenText | None) -> TokenText:
    """The text that the caller owes to a chunker with `reads_text`."""
    assert text is not None
    return text


def split(start: int, end: int, limit: int, levels: Sequence[np.ndarray]) -> Chunks:
    """Cut [start, end) at the first level of positions; what stays too long at the next; at last anywhere.

    Neighbouring parts of one level that together keep within `limit` are one chunk again.
    """
    if end - start <= limit:
        return [(start, end)]
    if not levels:
        return [(at, min(at + limit, end)) for at in range(start, end, limit)]
    inner = levels[0][np.searchsorted(levels[0], start, "right") : np.searchsorted(levels[0], end)]
    chunks: Chunks = []
    joinable = False
    for left, right in pairwise([start, *inner.tolist(), end]):
        if right - left > limit:
            chunks += split(left, right, limit, levels[1:])
            joinable = False
        elif joinable and right - chunks[-1][0] <= limit:
            chunks[-1] = (chunks[-1][0], right)  # (1)
        else:
            chunks.append((left, right))
            joinable = True
    return chunks


def cut_at(n: int, size: int, overlap: int, levels: Sequence[np.ndarray]) -> Chunks:
    """`split` into chunks that leave room for the overlap, which is then put before each but the first (2)."""
    return [(max(0, start - overlap), end) for start, end in split(0, n, size - overlap, levels)]


def check_overlap(overlap: int) -> None:
    """Raise ValueError for an overlap below zero."""
    if overlap < 0:
        raise ValueError(f"overlap ({overlap}) must not be negative")
