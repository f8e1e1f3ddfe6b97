"""kneser_ney: an n-gram language model with interpolated Kneser–Ney smoothing, as sorted arrays.

An n-gram is one number: the rank of its first n-1 words among the n-grams of length n-1, times V, plus its
last word. All n-grams of one length, sorted, are a table; counting is `np.unique`, looking up is binary search,
and one pass for each length serves a whole text. Equations (1)-(7) stand in docs/data/kneser_ney.md.

Tokens come as one sequence, with for each position how many tokens of its own line stand before it (its
*room*): n-grams never reach over a line end. With a `boundary`, that token ends every line and starts the next.

Shapes      T tokens, G n-grams of one length, C contexts of one length (the n-grams one shorter), V words
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Discounts = tuple[float, float, float]  # D1, D2, D3+

FALLBACK: Discounts = (0.5, 1.0, 1.5)  # where too few n-grams were seen to estimate discounts


@dataclass(frozen=True, kw_only=True)
class Table:
    """The n-grams of one length, sorted. logp: of the last word after the others. backoff: log γ as a context."""

    keys_G: Ints
    logp_G: NDArray[np.floating]
    backoff_G: NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class KneserNey:
    """tables: of lengths 1 … N; the first holds every word. discounts: those used, for each length."""

    tables: tuple[Table, ...]
    n_words: int
    discounts: tuple[Discounts, ...]

    def logp(self, ids_T: Ints, room_T: Ints) -> Floats:
        """Log-probability (nats) of each token after those before it in its line; 0 where room is negative."""
        logp_T = self.tables[0].logp_G[ids_T].astype(np.float64)
        rank_T = ids_T  # of the (n-1)-gram that ends at each position, -1 when there is none
        for n in range(2, len(self.tables) + 1):
            shorter, table = self.tables[n - 2 : n]
            if len(table.keys_G) == 0:
                break
            at = np.flatnonzero(room_T >= n - 1)
            at = at[rank_T[at - 1] >= 0]
            context = rank_T[at - 1]
            rank = find(table.keys_G, context * self.n_words + ids_T[at])
            backed_off = logp_T[at] + shorter.backoff_G[context]
            logp_T[at] = np.where(rank >= 0, table.logp_G[rank], backed_off)  # (6)
            rank_T = np.full(len(ids_T), -1, dtype=np.int64)
            rank_T[at] = rank
        logp_T[room_T < 0] = 0.0
        return logp_T

    def compact(self) -> "KneserNey":
        """The same model with numbers of half the size."""
        small = [
            replace(t, logp_G=t.logp_G.astype(np.float32), backoff_G=t.backoff_G.astype(np.float32))
            for t in self.tables
        ]
        return replace(self, tables=tuple(small))


def rooms(ids_T: Ints, boundary: int) -> Ints:
    """How far back the last boundary before each token lies; -1 for the first token, which nothing precedes."""
    at_T = np.arange(len(ids_T))
    last_T = np.maximum.accumulate(np.where(ids_T == boundary, at_T, 0))
    return at_T - np.concatenate([[1], last_T[:-1]])[: len(ids_T)]


def fit(
    ids_T: Ints,
    room_T: Ints,
    *,
    order: int,
    n_words: int,
    boundary: int | None = None,
    discounts: Sequence[Discounts] | None = None,
    min_counts: Sequence[int] = (),
) -> KneserNey:
    """Count the n-grams of a token sequence and smooth them.

    discounts: D1, D2, D3+ for each length; estimated when not given, which is modified Kneser–Ney.
    min_counts: how often n-grams of each length must occur to be kept, never falling; 1 where not given.
    """
    counts = _adjusted(_count(ids_T, room_T, order, n_words), ids_T, boundary)
    chosen = tuple(discounts or (estimate_discounts(c.adjusted_G) for c in counts))
    least = [*min_counts, *[1] * order][:order]
    tables: list[Table] = []
    lower_G = np.full(1, 1.0 / n_words)  # (5): beneath single words all are alike
    new_rank_C = np.zeros(1, dtype=np.int64)  # rank among those kept, -1 for the others
    for n, c in enumerate(counts):
        kept_G = (c.count_G >= least[n]) | (n == 0)
        alpha_G, gamma_C = _discount(c, chosen[n], kept_G, len(new_rank_C))
        p_G = alpha_G + gamma_C[c.context_G] * lower_G[c.suffix_G]  # (4)
        if tables:
            tables[-1].backoff_G[:] = np.log(gamma_C[new_rank_C >= 0])
        keys_G = new_rank_C[c.context_G] * n_words + c.keys_G % n_words
        logp_G = np.log(p_G[kept_G])
        tables.append(Table(keys_G=keys_G[kept_G], logp_G=logp_G, backoff_G=np.zeros(len(logp_G))))
        new_rank_C = np.where(kept_G, np.cumsum(kept_G) - 1, -1)
        lower_G = p_G
    return KneserNey(tables=tuple(tables), n_words=n_words, discounts=chosen)


def estimate_discounts(adjusted_G: Ints) -> Discounts:
    """D1, D2, D3+ of modified Kneser–Ney, from how many n-grams have the counts 1, 2, 3, 4 (7)."""
    n1, n2, n3, n4 = (int((adjusted_G == count).sum()) for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (d1, d2, d3) if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3 else FALLBACK


def find(keys_G: Ints, wanted_T: Ints) -> Ints:
    """Rank of each wanted key among the sorted keys, -1 where it is missing."""
    rank_T = np.minimum(np.searchsorted(keys_G, wanted_T), len(keys_G) - 1)
    return np.where(keys_G[rank_T] == wanted_T, rank_T, -1)


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """The n-grams of one length. count: how often. adjusted: what stands in (3) for it.

    end: a position at which it ends. context: rank of its first n-1 words. suffix: rank of its last n-1.
    """

    keys_G: Ints
    count_G: Ints
    adjusted_G: Ints
    end_G: Ints
    context_G: Ints
    suffix_G: Ints


def _count(ids_T: Ints, room_T: Ints, order: int, n_words: int) -> list[_Counts]:
    """The n-grams of every length, shortest first; of length 1 every word, seen or not."""
    once_V, zeros_V = np.arange(n_words), np.zeros(n_words, dtype=np.int64)
    count_V = np.bincount(ids_T[room_T >= 0], minlength=n_words)
    found = [
        _Counts(
            keys_G=once_V,
            count_G=count_V,
            adjusted_G=count_V,
            end_G=zeros_V,
            context_G=zeros_V,
            suffix_G=zeros_V,
        )
    ]
    rank_T = ids_T
    for n in range(2, order + 1):
        at = np.flatnonzero(room_T >= n - 1)
        keys, first_G, rank, count_G = np.unique(
            rank_T[at - 1] * n_words + ids_T[at], return_index=True, return_inverse=True, return_counts=True
        )
        end_G = at[first_G]
        found.append(
            _Counts(
                keys_G=keys,
                count_G=count_G,
                adjusted_G=count_G,
                end_G=end_G,
                context_G=keys // n_words,
                suffix_G=rank_T[end_G],
            )
        )
        rank_T = np.full(len(ids_T), -1, dtype=np.int64)
        rank_T[at] = rank
    return found


def _adjusted(counts: list[_Counts], ids_T: Ints, boundary: int | None) -> list[_Counts]:
    """Below the longest n-grams: not how often, but after how many different words (1).

    What starts with the boundary has nothing before it and keeps its count (2).
    """
    out = []
    for n, (c, longer) in enumerate(pairwise(counts), 1):
        before_G = np.bincount(longer.suffix_G, minlength=len(c.keys_G))
        if n > 1 and boundary is not None:
            before_G = np.where(ids_T[c.end_G - n + 1] == boundary, c.count_G, before_G)
        out.append(replace(c, adjusted_G=before_G))
    return [*out, counts[-1]]


def _discount(
    counts: _Counts, discounts: Discounts, kept_G: NDArray[np.bool_], n_contexts: int
) -> tuple[Floats, Floats]:
    """What each n-gram keeps of its share, and what its context gives to shorter ones (3)."""
    discount_G = np.array([0.0, *discounts])[np.minimum(counts.adjusted_G, 3)]
    left_G = np.maximum(counts.adjusted_G - discount_G, 0.0)
    total_C = np.bincount(counts.context_G, weights=counts.adjusted_G, minlength=n_contexts)
    kept_C = np.bincount(counts.context_G, weights=left_G * kept_G, minlength=n_contexts)
    seen_C = np.maximum(total_C, 1.0)  # a context that was never seen gives everything
    return left_G / seen_C[counts.context_G], np.where(total_C > 0, (total_C - kept_C) / seen_C, 1.0)
