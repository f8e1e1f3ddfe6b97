"""bands: into how many bands of how many numbers a MinHash signature is cut, so that like documents meet.

Equations   (1)-(3) in docs/data/bands.md; comments below carry the same numbers
Source      Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3; the choice as `datasketch` makes it
Cost        K log K candidates of 128 evaluations each, once
Differs     nothing
Shapes      K numbers of a signature
"""

import functools

import numpy as np
from numpy.typing import NDArray


def candidate_probability(similarity: NDArray[np.float64], n_bands: int, n_rows: int) -> NDArray[np.float64]:
    """P(s) = 1 - (1 - s^r)^b: the chance that a pair of this similarity agrees on at least one band (1)."""
    return 1.0 - (1.0 - similarity**n_rows) ** n_bands


@functools.cache
def optimal_bands(threshold: float, n_hashes: int, fp_weight: float = 0.5) -> tuple[int, int]:
    """(bands, rows) with bands · rows <= n_hashes that minimise the expected error (3)."""
    below, below_weights = _quadrature(0.0, threshold)
    above, above_weights = _quadrature(threshold, 1.0)
    best = (float("inf"), 1, 1)
    for n_bands in range(1, n_hashes + 1):
        for n_rows in range(1, n_hashes // n_bands + 1):
            false_positive = below_weights @ candidate_probability(below, n_bands, n_rows)
            false_negative = above_weights @ (1.0 - candidate_probability(above, n_bands, n_rows))
            error = fp_weight * false_positive + (1.0 - fp_weight) * false_negative  # (2)
            best = min(best, (float(error), n_bands, n_rows))
    return best[1], best[2]


def _quadrature(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss–Legendre points and weights on [low, high]: exact for the polynomials of degree <= 127 in s."""
    points, weights = np.polynomial.legendre.leggauss(64)
    return (high - low) / 2 * points + (high + low) / 2, (high - low) / 2 * weights
