"""MinHash-LSH: two texts share a minimum hash as often as they share shingles; bands find such pairs.

Equations   (1)-(6) in docs/data/dedup/minhash.md; comments below carry the same numbers
Source      Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3; Lee et al. 2021, arXiv 2107.06499
Cost        O(words · K) once; 4K bytes a document; O(N · bands) to find candidates
Differs     from Lee et al.: bands are chosen from the threshold, candidates are verified by true Jaccard
Shapes      N documents, K hash functions, S shingles of a group of documents, M pairs
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.dedup.base import Dedup, Pairs, buckets, pair_array
from llm.data.words import words

U64 = NDArray[np.uint64]

_P = np.uint64(2**61 - 1)  # Mersenne prime: x mod p is shifts and additions
_LOW_29, _LOW_32 = np.uint64(2**29 - 1), np.uint64(2**32 - 1)
_EMPTY = np.uint32(2**32 - 1)  # the signature of a text without words, in every place
_GROUP_SHINGLES = 8192  # documents are hashed together up to this many shingles: fits the cache
_CACHE_WORDS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """threshold: Jaccard similarity from which two documents count as the same. n_hashes: K.

    shingle_words: words in a shingle. verify: compare the shingle sets of candidates themselves.
    fp_weight: weight of false candidates in the choice of bands; missed pairs weigh 1 - fp_weight.
    """

    threshold: float = 0.7
    n_hashes: int = 128
    shingle_words: int = 5
    verify: bool = True
    fp_weight: float = 0.5
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(
                f"threshold must lie between 0 and 1 ({self.threshold}); exact copies: kind exact"
            )
        if not 0.0 <= self.fp_weight <= 1.0:
            raise ValueError(f"fp_weight must lie in [0, 1] ({self.fp_weight})")
        if self.n_hashes < 1 or self.shingle_words < 1:
            raise ValueError(
                f"n_hashes and shingle_words must be positive ({self.n_hashes}, {self.shingle_words})"
            )


class MinHash(Dedup):
    """Rows are signatures of K minima; documents that agree on a whole band are candidates."""

    reason = "near_duplicate"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.n_bands, self.n_rows = optimal_bands(config.threshold, config.n_hashes, config.fp_weight)
        draw = np.random.Generator(np.random.PCG64(config.seed))
        self.a_K = draw.integers(1, _P, config.n_hashes, dtype=np.uint64)
        self.b_K = draw.integers(0, _P, config.n_hashes, dtype=np.uint64)

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        rows = [np.zeros((0, self.config.n_hashes), dtype=np.uint32)]
        rows += [self._minima(group) for group in _groups(texts, self.config.shingle_words)]
        return np.concatenate(rows)

    def pairs(self, signatures_NW: NDArray[Any], texts: Sequence[str]) -> Pairs:
        seen: dict[tuple[int, int], bool] = {}
        same = functools.partial(self._same, texts, seen) if self.config.verify else None
        found: set[tuple[int, int]] = set()
        filled = np.flatnonzero((signatures_NW != _EMPTY).any(axis=1))
        for keys in self._band_keys(signatures_NW[filled]):
            for bucket in buckets(keys):
                found.update(_bucket_pairs(filled[bucket].tolist(), same))
        facts: dict[str, int | float] = {"bands": self.n_bands, "rows": self.n_rows, "pairs": len(found)}
        if self.config.verify:
            facts |= {"pairs_verified": len(seen), "pairs_refused": len(seen) - sum(seen.values())}
        return Pairs(rows_M2=pair_array(sorted(found)), facts=facts)

    def _minima(self, group: list[U64]) -> NDArray[np.uint32]:
        """Shingle hashes of a few documents -> their signatures, one hash function at a time."""
        sizes = np.array([len(hashes) for hashes in group], dtype=np.int64)
        filled = np.flatnonzero(sizes)
        out = np.full((len(group), self.config.n_hashes), _EMPTY, dtype=np.uint32)
        if len(filled) == 0:
            return out
        x_S = np.concatenate(group) >> np.uint64(32)
        starts = (np.cumsum(sizes) - sizes)[filled]
        for k in range(self.config.n_hashes):
            out[filled, k] = np.minimum.reduceat(permute(x_S, self.a_K[k], self.b_K[k]), starts)  # (2)
        return out

    def _band_keys(self, signatures_NK: NDArray[np.uint32]) -> Iterator[NDArray[Any]]:
        """The r numbers of each band as one key for each row."""
        for band in range(self.n_bands):
            part = signatures_NK[:, band * self.n_rows : (band + 1) * self.n_rows]
            yield np.ascontiguousarray(part).view(f"S{4 * self.n_rows}").ravel()

    def _same(self, texts: Sequence[str], seen: dict[tuple[int, int], bool], left: int, right: int) -> bool:
        """Whether the true Jaccard similarity reaches the threshold; every pair is computed once."""
        pair = (left, right)
        if pair not in seen:
            n = self.config.shingle_words
            seen[pair] = jaccard(shingles(texts[left], n), shingles(texts[right], n)) >= self.config.threshold
        return seen[pair]


def _bucket_pairs(bucket: list[int], same: Callable[[int, int], bool] | None) -> list[tuple[int, int]]:
    """Join a bucket to its first row; rows that fail the check form a bucket of their own, and so on."""
    pairs: list[tuple[int, int]] = []
    while len(bucket) > 1:
        first, *others = bucket
        joined = [row for row in others if same is None or same(first, row)]
        pairs += [(first, row) for row in joined]
        bucket = sorted(set(others) - set(joined))
    return pairs


# ---------------------------------------------------------------- shingles and hashes


class _WordHashes(dict[str, int]):
    """Word -> 64-bit hash, equal in every process and run; a cache that forgets when it has grown large."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _CACHE_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


_HASH = _WordHashes()


def shingles(text: str, n: int) -> U64:
    """Hashes of all runs of n words; a shorter text is one shingle, a text without words none."""
    tokens = words(text)
    hashes = np.fromiter(map(_HASH.__getitem__, tokens), dtype=np.uint64, count=len(tokens))
    n = min(n, len(hashes))
    if n == 0:
        return hashes
    rolled = np.zeros(len(hashes) - n + 1, dtype=np.uint64)
    for place in range(n):  # (1): a polynomial in an odd base, modulo 2^64
        rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + len(rolled)]
    return _mix(rolled)


def _mix(x: U64) -> U64:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(x_S: U64, a: np.uint64, b: np.uint64) -> U64:
    """((a·x + b) mod 2^61 - 1) mod 2^32 for 32-bit x and 61-bit a, b, without overflow in 64 bits (3).

    a = h·2^32 + l, so a·x = (h·x)·2^32 + l·x. Both products fit: h·x < 2^61 and l·x < 2^64. Modulo
    2^61 - 1 a multiplication by 2^32 rotates 61 bits, and a number above 2^61 folds onto itself.
    """
    high = x_S * (a >> np.uint64(32))
    total = ((high & _LOW_29) << np.uint64(32)) | (high >> np.uint64(29))
    low = x_S * (a & _LOW_32)
    total += (low & _P) + (low >> np.uint64(61))
    total += b
    total = (total & _P) + (total >> np.uint64(61))
    total -= _P * (total >= _P)
    return total & _LOW_32


def jaccard(left: U64, right: U64) -> float:
    """|A ∩ B| / |A ∪ B| of two shingle lists taken as sets; 0 when both are empty."""
    left, right = np.unique(left), np.unique(right)
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)


def _groups(texts: Sequence[str], n: int) -> Iterator[list[U64]]:
    """Shingles of consecutive documents, gathered until a group fills the cache."""
    group: list[U64] = []
    size = 0
    for text in texts:
        group.append(shingles(text, n))
        size += len(group[-1])
        if size >= _GROUP_SHINGLES:
            yield group
            group, size = [], 0
    if group:
        yield group


# ---------------------------------------------------------------- the choice of bands


def candidate_probability(similarity: NDArray[np.float64], n_bands: int, n_rows: int) -> NDArray[np.float64]:
    """P(s) = 1 - (1 - s^r)^b: the chance that a pair of this similarity agrees on at least one band (4)."""
    return 1.0 - (1.0 - similarity**n_rows) ** n_bands


@functools.cache
def optimal_bands(threshold: float, n_hashes: int, fp_weight: float = 0.5) -> tuple[int, int]:
    """(bands, rows) with bands · rows <= n_hashes that minimise the expected error (6)."""
    below, below_weights = _quadrature(0.0, threshold)
    above, above_weights = _quadrature(threshold, 1.0)
    best = (float("inf"), 1, 1)
    for n_bands in range(1, n_hashes + 1):
        for n_rows in range(1, n_hashes // n_bands + 1):
            false_positive = below_weights @ candidate_probability(below, n_bands, n_rows)
            false_negative = above_weights @ (1.0 - candidate_probability(above, n_bands, n_rows))
            error = fp_weight * false_positive + (1.0 - fp_weight) * false_negative  # (5)
            best = min(best, (float(error), n_bands, n_rows))
    return best[1], best[2]


def _quadrature(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss–Legendre points and weights on [low, high]: exact for the polynomials of degree <= 127 in s."""
    points, weights = np.polynomial.legendre.leggauss(64)
    return (high - low) / 2 * points + (high + low) / 2, (high - low) / 2 * weights


build = MinHash
