"""SimHash: features vote on 64 bits; texts whose fingerprints differ in few bits are near copies.

Equations   (1)-(5) in docs/data/dedup/simhash.md; comments below carry the same numbers
Source      Charikar 2002 (the fingerprint); Manku, Jain & Das Sarma 2007 (64 bits, 3 differing, search by blocks)
Cost        O(64 · words) once, twice with idf; 8 bytes a document; O(N · blocks) to find candidates
Differs     from Manku et al.: features are shingles; documents are counted for each of 2^20 groups of features, so
            that rarity takes 8 MB whatever the corpus; blocks are sorted one after the other instead of kept as
            permuted tables
Shapes      N documents, S features of a group of documents, M pairs, U distinct fingerprints, C groups of features
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llm.data.dedup.base import Dedup, Pairs, Texts, buckets
from llm.data.shingles import Hashed, groups, shingle_hashes

U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]

_BITS = 64
_GROUP_BITS = 20  # of a feature's hash: documents are counted for each of 2^20 groups of features
_UNIT = (
    1024  # weights are whole numbers of this unit, so that votes are the same in any order and on any machine
)
_WORDLESS = np.uint64(0)  # the fingerprint of a text without words; another text has it by chance 2^-64


@dataclass(frozen=True, kw_only=True)
class Config:
    """max_distance: bits in which the fingerprints of copies may differ. shingle_words: words in a feature.

    weights: a feature votes as often as it occurs (`count`), or that many times its rarity in the corpus (`idf`).
    """

    max_distance: int = 3
    shingle_words: int = 2
    weights: Literal["count", "idf"] = "count"

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance < _BITS // 2:
            raise ValueError(
                f"max_distance must lie in [0, 31] ({self.max_distance}); unrelated texts differ in 32 bits"
            )
        if self.shingle_words < 1:
            raise ValueError(f"shingle_words must be positive ({self.shingle_words})")


class SimHash(Dedup):
    """Rows are fingerprints; those that agree on one of max_distance + 1 blocks are compared bit by bit."""

    reason = "near_duplicate"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.needs_fit = config.weights == "idf"
        self.weights_C: NDArray[np.int32] | None = None  # of each group of features, after `fit`

    def look(self, texts: Sequence[str]) -> Ints:
        """In how many texts each group of features occurs, and, last, the number of texts."""
        counts_C = np.zeros(2**_GROUP_BITS + 1, dtype=np.int64)
        for some in groups(texts):
            values_S, sizes_N = shingle_hashes(some, self.config.shingle_words)
            document_S = np.repeat(np.arange(len(some)), sizes_N)
            once = np.unique((document_S << _GROUP_BITS) + _group(values_S))
            np.add.at(counts_C, once & (2**_GROUP_BITS - 1), 1)
        counts_C[-1] = len(texts)
        return counts_C

    def fit(self, looks: Iterable[Ints]) -> None:
        total_C = np.zeros(2**_GROUP_BITS + 1, dtype=np.int64)
        for look in looks:
            total_C += look
        rarity_C = np.log1p(total_C[-1] / np.maximum(total_C[:-1], 1))  # (5)
        self.weights_C = np.round(_UNIT * rarity_C).astype(np.int32)

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        parts = [np.zeros(0, dtype=np.uint64)]
        for some in groups(texts):
            features = shingle_hashes(some, self.config.shingle_words)
            parts.append(fingerprints(features, self._weights(features)))
        return np.concatenate(parts)[:, None]

    def _weights(self, features: Hashed) -> NDArray[np.int32] | None:
        if not self.needs_fit:
            return None
        if self.weights_C is None:
            raise ValueError("simhash: weights 'idf' are not fitted; show the corpus to look and fit first")
        return self.weights_C[_group(features.values)]

    def pairs(self, signatures_NW: NDArray[Any], texts: Texts) -> Pairs:
        filled = np.flatnonzero(signatures_NW[:, 0] != _WORDLESS)
        bits_U, first_U, which = np.unique(
            signatures_NW[filled, 0], return_index=True, return_inverse=True
        )  # equal fingerprints are settled here; what follows compares different ones
        equal = np.stack([filled[first_U[which]], filled], axis=1)
        near, n_compared = near_pairs(bits_U, self.config.max_distance)
        rows_M2 = np.concatenate([equal[equal[:, 0] != equal[:, 1]], filled[first_U[near]]])
        facts: dict[str, int | float] = {"pairs": len(rows_M2), "pairs_compared": n_compared}
        return Pairs(
            rows_M2=rows_M2.astype(np.int64), facts=facts | {"max_distance": self.config.max_distance}
        )

    def curve(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        differs = np.arccos(np.clip(similarity, -1.0, 1.0)) / np.pi  # (3)
        chances = [
            math.comb(_BITS, wrong) * differs**wrong * (1.0 - differs) ** (_BITS - wrong)
            for wrong in range(self.config.max_distance + 1)
        ]
        return np.sum(chances, axis=0)  # (4)


def _group(values_S: U64) -> Ints:
    """The group of each feature: features that share one share its count of documents."""
    return (values_S >> np.uint64(_BITS - _GROUP_BITS)).astype(np.int64)


def fingerprints(features: Hashed, weights_S: NDArray[Any] | None = None) -> U64:
    """Bit i is 1 where the features with bit i outweigh those without it; a tie is 0 (1), (2)."""
    values_S, sizes_N = features
    out_N = np.full(len(sizes_N), _WORDLESS, dtype=np.uint64)
    filled = np.flatnonzero(sizes_N)
    if len(filled) == 0:
        return out_N
    bits_SB = np.unpackbits(values_S.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    starts = (np.cumsum(sizes_N) - sizes_N)[filled]
    if weights_S is None:
        votes = 2 * np.add.reduceat(bits_SB, starts, axis=0, dtype=np.int32) - sizes_N[filled, None]
    else:
        signs_SB = 2 * bits_SB.astype(np.int8) - 1
        votes = np.add.reduceat(signs_SB * weights_S[:, None], starts, axis=0, dtype=np.int64)
    out_N[filled] = np.packbits(votes > 0, axis=1).view(">u8").ravel()
    return out_N


def near_pairs(bits_U: U64, max_distance: int) -> tuple[Ints, int]:
    """All pairs of rows at most `max_distance` bits apart, [M, 2] with the smaller row first; pairs compared.

    Of max_distance + 1 blocks of bits at least one is equal in such a pair, for each differing bit spoils
    only one: so rows are grouped by each block, and only rows of one group are compared.
    """
    n_blocks = max_distance + 1
    borders = [_BITS * block // n_blocks for block in range(n_blocks + 1)]
    found = [np.zeros((0, 2), dtype=np.int64)]
    n_compared = 0
    for low, high in itertools.pairwise(borders):
        block_U = (bits_U >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        for group in buckets(block_U):
            for place, row in enumerate(group[:-1]):
                others = group[place + 1 :]
                near = others[np.bitwise_count(bits_U[row] ^ bits_U[others]) <= max_distance]
                found.append(np.stack([np.full_like(near, row), near], axis=1))
            n_compared += len(group) * (len(group) - 1) // 2
    return np.unique(np.concatenate(found), axis=0), n_compared


build = SimHash
