"""shingles: the words of many texts as 64-bit hashes, and hashes of their runs of n words.

Equations   (1)-(3) in docs/data/shingles.md; comments below carry the same numbers
Source      Broder 1997 (shingles); Karp & Rabin 1987 (polynomial hashes); the finaliser of splitmix64
Cost        O(bytes + n · words), a few numpy passes over a group of texts
Differs     from Karp & Rabin: modulo 2^64 and mixed, so that all bits may be used
Shapes      N texts, C bytes of a group of texts, W words, S shingles
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.data.words import words

U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_GROUP_CHARS = 1 << 16  # texts are hashed together up to this length: the arrays stay in the cache
_WORD_BASE = 0xD1342543DE82EF95
_RUN_BASE = np.uint64(0x9E3779B97F4A7C15)


class Hashed(NamedTuple):
    """values: the hashes of all texts, one after the other. sizes: how many of them each text has, [N]."""

    values: U64
    sizes: Ints

    def one(self, row: int) -> U64:
        """The hashes of one text."""
        start = int(self.sizes[:row].sum())
        return self.values[start : start + int(self.sizes[row])]


def mix(x: U64) -> U64:
    """The finaliser of splitmix64, a bijection: every input bit reaches every output bit (1)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shingles(text: str, n: int) -> U64:
    """Hashes of all runs of n words; a shorter text is one shingle, a text without words none."""
    return shingle_hashes([text], n).values


def shingle_hashes(texts: Sequence[str], n: int) -> Hashed:
    """The shingles of each text in order; equal in every process, group and run."""
    parts = [_runs(word_hashes(group), n) for group in groups(texts)]
    return Hashed(
        np.concatenate([np.zeros(0, dtype=np.uint64), *(part.values for part in parts)]),
        np.concatenate([np.zeros(0, dtype=np.int64), *(part.sizes for part in parts)]),
    )


def groups(texts: Sequence[str], n_chars: int = _GROUP_CHARS) -> Iterator[Sequence[str]]:
    """Consecutive texts of about so many characters together; a longer text is a group of its own."""
    start = size = 0
    for row, text in enumerate(texts):
        if size and size + len(text) > n_chars:
            yield texts[start:row]
            start, size = row, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


# ---------------------------------------------------------------- words


def word_hashes(texts: Sequence[str]) -> Hashed:
    """One hash for each word, for all texts in one go.

    Words are those of llm/data/words.py, only that the mark of a speaker (`A: `) is a word too: where a chat is
    re-flowed or put into lower case it can no longer be told from one, and the copy would not be found.
    """
    pieces = [b"\n" + _plain(text) for text in texts]
    bytes_C = np.frombuffer(b"".join([*pieces, b"\n"]), dtype=np.uint8)
    starts_W, ends_W = _spans(bytes_C)
    power_C, inverse_C = _powers(len(bytes_C))
    sums_C = np.cumsum(_CODE[bytes_C] * power_C)
    values_W = mix((sums_C[ends_W - 1] - sums_C[starts_W - 1]) * inverse_C[starts_W])  # (2)
    ends_N = np.cumsum([len(piece) for piece in pieces])
    until_N = np.searchsorted(starts_W, ends_N)
    return Hashed(values_W, np.diff(until_N, prepend=0))


def _plain(text: str) -> bytes:
    """Bytes in which `_spans` finds the words of the text: itself where it is ASCII, else its words in lines."""
    if text.isascii():
        return text.encode("ascii")
    return "\n".join(words(text.lower())).encode("utf-8", "surrogatepass")


def _spans(bytes_C: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Where words start and end: runs of letters, digits and inner apostrophes."""
    inside_C = _IS_WORD[bytes_C]
    marks = np.flatnonzero(bytes_C[:-1] == ord("'"))
    inside_C[marks[inside_C[marks - 1] & inside_C[marks + 1]]] = True
    borders = np.flatnonzero(inside_C[1:] != inside_C[:-1]) + 1
    return borders[0::2], borders[1::2]


def _powers(n: int) -> tuple[U64, U64]:
    """The first n powers of the base and of its inverse modulo 2^64, kept for the next group."""
    global _POWERS
    if n > len(_POWERS[0]):
        bases = (_WORD_BASE, pow(_WORD_BASE, -1, 2**64))
        first, second = (np.full(2 * n, base, dtype=np.uint64) for base in bases)
        _POWERS = np.cumprod(first), np.cumprod(second)
    return _POWERS[0][:n], _POWERS[1][:n]


_POWERS: tuple[U64, U64] = (np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))

_BYTES = np.arange(256, dtype=np.uint8)
_LOWER = np.array([ord(chr(b).lower()) if b < 128 else b for b in _BYTES.tolist()])
_IS_WORD: Bools = np.array([chr(b).isalnum() if b < 128 else True for b in _BYTES.tolist()])
_CODE: U64 = mix((_LOWER.astype(np.uint64) + np.uint64(1)) * _RUN_BASE)  # upper and lower case are the same


# ---------------------------------------------------------------- runs of words


def _runs(hashed: Hashed, n: int) -> Hashed:
    """Word hashes -> shingle hashes: a polynomial in an odd base modulo 2^64 over n words, mixed (3)."""
    values_W, sizes_N = hashed
    rolled_W = np.zeros_like(values_W)
    inner = rolled_W[: max(0, len(values_W) - n + 1)]
    for place in range(n):
        inner *= _RUN_BASE
        inner += values_W[place : place + len(inner)]
    ends_N = np.cumsum(sizes_N)
    keep_W = np.ones(len(values_W), dtype=np.bool_)
    for back in range(1, n):  # a run that starts in the last n - 1 words would cross the end of its text
        keep_W[(ends_N - back)[sizes_N >= back]] = False
    for row in np.flatnonzero((sizes_N > 0) & (sizes_N < n)).tolist():
        first, end = int(ends_N[row] - sizes_N[row]), int(ends_N[row])
        rolled_W[first] = _polynomial(values_W[first:end].tolist())
        keep_W[first] = True
    short_N = np.minimum(sizes_N, 1)
    return Hashed(mix(rolled_W[keep_W]), np.where(sizes_N < n, short_N, sizes_N - n + 1))


def _polynomial(values: list[int]) -> int:
    """The polynomial of (3) over all words of a short text."""
    total = 0
    for value in values:
        total = (total * int(_RUN_BASE) + value) % 2**64
    return total


def jaccard(left: U64, right: U64) -> float:
    """|A ∩ B| / |A ∪ B| of two lists of hashes taken as sets; 0 when both are empty."""
    left, right = np.unique(left), np.unique(right)
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)
