"""MinHash-LSH: two texts share a minimum hash as often as they share shingles; bands find such pairs.

Equations   (1)-(6) in docs/data/dedup/minhash.md; comments below carry the same numbers
Source      Broder 1997; Dahlgaard, Knudsen & Thorup 2017, arXiv 1704.04370 (Fast Similarity Sketching); Leskovec
            et al., Mining of Massive Datasets, ch. 3 (bands); Lee et al. 2021, arXiv 2107.06499
Cost        O(words + K log K) once; 4K bytes a document; O(N · bands) to find candidates
Differs     from Dahlgaard et al.: 7 rounds instead of K before the places still empty are filled one by one;
            from Lee et al.: bands are chosen from the threshold, candidates are verified by true Jaccard
Shapes      N documents, K places of a signature, S shingles of a group of documents, M pairs
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.bands import candidate_probability, optimal_bands
from llm.data.dedup.base import Dedup, Pairs, Texts, bucket_keys, buckets, pair_array
from llm.data.shingles import Hashed, jaccard, shingle_hashes, shingles

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]

_EMPTY = np.uint32(2**32 - 1)  # the signature of a text without words, in every place
_ROUNDS = 7  # 3 bits of a place name the round that filled it, 29 are the rank
_RANK_BITS = 29
_GROUP_SHINGLES = 1 << 16  # documents are hashed together up to this many shingles: fits the cache
_REMEMBERED = 64  # documents whose shingle sets wait for the next candidate


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
        odd = draw.integers(0, 2**63, _ROUNDS + config.n_hashes, dtype=np.uint64) * np.uint64(2) + np.uint64(
            1
        )
        self.a_T, self.a_K = odd[:_ROUNDS], odd[_ROUNDS:]

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        """Documents of like length are hashed together: they need like numbers of rounds."""
        order_N = np.argsort([len(text) for text in texts], kind="stable")
        hashed = shingle_hashes([texts[row] for row in order_N.tolist()], self.config.shingle_words)
        out_NK = np.empty((len(texts), self.config.n_hashes), dtype=np.uint32)
        out_NK[order_N] = self.sketch(hashed)
        return out_NK

    def sketch(self, hashed: Hashed) -> U32:
        """The signatures of documents given by their shingle hashes; fastest where sizes ascend."""
        out_NK = np.full((len(hashed.sizes), self.config.n_hashes), _EMPTY, dtype=np.uint32)
        ends = np.cumsum(hashed.sizes)
        row = first = 0
        while row < len(ends):
            until = max(row + 1, int(np.searchsorted(ends, first + _GROUP_SHINGLES, side="right")))
            end = int(ends[until - 1])
            self._fill(out_NK[row:until], hashed.values[first:end], hashed.sizes[row:until])
            row, first = until, end
        return out_NK

    def _fill(self, out_NK: U32, x_S: U64, sizes_N: Ints) -> None:
        """Rounds that throw every shingle into one of K places, until no place of a document is empty."""
        n_hashes = self.config.n_hashes
        places = out_NK.reshape(-1)
        first_S = np.repeat(np.arange(0, len(places), n_hashes, dtype=np.uint64), sizes_N)
        _throw(places, x_S, first_S, self.a_T[0], 0, n_hashes)
        empty = np.flatnonzero(places == _EMPTY)
        for number in range(1, _ROUNDS):
            if len(empty) == 0:
                return
            n_left = int(sizes_N[: int(empty[-1]) // n_hashes + 1].sum())  # documents behind it are done
            _throw(places, x_S[:n_left], first_S[:n_left], self.a_T[number], number, n_hashes)
            empty = empty[places[empty] == _EMPTY]
        self._fill_empty(places, empty[sizes_N[empty // n_hashes] > 0], x_S, sizes_N)

    def _fill_empty(self, places: U32, empty: Ints, x_S: U64, sizes_N: Ints) -> None:
        """Each place that is still empty gets the minimum of a hash function of its own (3)."""
        if len(empty) == 0:
            return
        row, k = np.divmod(empty, self.config.n_hashes)
        n = sizes_N[row]
        starts = np.cumsum(n) - n
        shingle = np.arange(n.sum()) + np.repeat((np.cumsum(sizes_N) - sizes_N)[row] - starts, n)
        rank = _rank(x_S[shingle] * np.repeat(self.a_K[k], n), _ROUNDS)
        places[empty] = np.minimum(np.minimum.reduceat(rank, starts), _EMPTY - np.uint32(1))

    def pairs(self, signatures_NW: NDArray[Any], texts: Texts) -> Pairs:
        verified = _Verified(texts, self.config) if self.config.verify else None
        found: set[tuple[int, int]] = set()
        filled = np.flatnonzero(signatures_NW[:, 0] != _EMPTY)  # a text with words fills every place
        for band in range(self.n_bands):
            columns = signatures_NW[:, band * self.n_rows : (band + 1) * self.n_rows]
            for bucket in buckets(bucket_keys(columns)[filled]):
                found.update(_bucket_pairs(filled[bucket].tolist(), verified))
        facts: dict[str, int | float] = {"bands": self.n_bands, "rows": self.n_rows, "pairs": len(found)}
        if verified:
            refused = len(verified.answers) - sum(verified.answers.values())
            facts |= {"pairs_verified": len(verified.answers), "pairs_refused": refused}
        return Pairs(rows_M2=pair_array(sorted(found)), facts=facts)

    def curve(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        return candidate_probability(similarity, self.n_bands, self.n_rows)


def _throw(places: U32, x_S: U64, first_S: U64, a: np.uint64, number: int, n_hashes: int) -> None:
    """One round: h = a·x mod 2^64; its upper half says which place, its lower half at which rank (1), (2)."""
    h_S = x_S * a
    rank_S = _rank(h_S, number)
    if n_hashes.bit_count() == 1 < n_hashes:
        h_S >>= np.uint64(65 - n_hashes.bit_length())  # the same as below, in one step
    else:
        h_S >>= np.uint64(32)
        h_S *= np.uint64(n_hashes)
        h_S >>= np.uint64(32)
    h_S += first_S
    np.minimum.at(places, h_S.view(np.int64), rank_S)


def _rank(h_S: U64, number: int) -> U32:
    """29 bits of the lower half of the hash, behind the round: what an earlier round has filled stays."""
    rank_S = h_S.astype(np.uint32)
    rank_S >>= np.uint32(32 - _RANK_BITS)
    rank_S |= np.uint32(number << _RANK_BITS)
    return rank_S


class _Verified:
    """Whether the true Jaccard similarity of two rows reaches the threshold; every pair is computed once."""

    def __init__(self, texts: Texts, config: Config) -> None:
        self.texts = texts
        self.config = config
        self.answers: dict[tuple[int, int], bool] = {}
        self.sets: OrderedDict[int, U64] = OrderedDict()

    def __call__(self, left: int, right: int) -> bool:
        pair = (left, right)
        if pair not in self.answers:
            self.answers[pair] = jaccard(self._set(left), self._set(right)) >= self.config.threshold
        return self.answers[pair]

    def _set(self, row: int) -> U64:
        if row not in self.sets:
            self.sets[row] = np.unique(shingles(self.texts[row], self.config.shingle_words))
            if len(self.sets) > _REMEMBERED:
                self.sets.popitem(last=False)
        self.sets.move_to_end(row)
        return self.sets[row]


def _bucket_pairs(bucket: list[int], same: Callable[[int, int], bool] | None) -> list[tuple[int, int]]:
    """Join a bucket to its first row; rows that fail the check form a bucket of their own, and so on."""
    pairs: list[tuple[int, int]] = []
    while len(bucket) > 1:
        first, *others = bucket
        joined = [row for row in others if same is None or same(first, row)]
        pairs += [(first, row) for row in joined]
        bucket = sorted(set(others) - set(joined))
    return pairs


build = MinHash
