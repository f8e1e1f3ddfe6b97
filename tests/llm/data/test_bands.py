"""The choice of bands against the known table, datasketch and a search by another integral."""

import numpy as np
import pytest

from llm.data.bands import candidate_probability, optimal_bands


@pytest.mark.parametrize(
    ("threshold", "bands"), [(0.5, (25, 5)), (0.7, (14, 9)), (0.8, (9, 13)), (0.85, (8, 16)), (0.9, (5, 25))]
)
def test_the_table_of_bands_for_128_hashes(threshold: float, bands: tuple[int, int]) -> None:
    assert optimal_bands(threshold, 128) == bands


def test_bands_equal_those_datasketch_chooses() -> None:
    from datasketch.lsh import _optimal_param

    for threshold in (0.3, 0.55, 0.75, 0.95):
        for n_hashes in (32, 128):
            for weight in (0.2, 0.5):
                want = _optimal_param(threshold, n_hashes, weight, 1 - weight)
                assert optimal_bands(threshold, n_hashes, weight) == tuple(want)


def test_candidate_probability_equals_the_published_curve() -> None:
    # FineWeb's 14 bands of 8 rows, at similarity .5 .6 .7 .8 .9
    got = candidate_probability(np.array([0.5, 0.6, 0.7, 0.8, 0.9]), 14, 8)
    np.testing.assert_allclose(got, [0.053, 0.211, 0.565, 0.924, 0.9996], atol=5e-4)


def test_more_weight_on_false_candidates_asks_for_more_rows() -> None:
    rows = [optimal_bands(0.7, 128, weight)[1] for weight in (0.1, 0.5, 0.9)]
    assert rows == sorted(rows)
    assert rows[0] < rows[-1]
