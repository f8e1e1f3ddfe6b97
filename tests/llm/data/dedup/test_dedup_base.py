"""Union–find and buckets against the plainest way to do the same."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm.data.dedup.base import buckets, clusters, pair_array

ROWS = 12
PAIRS = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)), max_size=20)


def reachable(pairs: list[tuple[int, int]]) -> list[int]:
    """Smallest row reachable from each row, by spreading labels until nothing changes."""
    label = list(range(ROWS))
    for _ in range(ROWS):
        for left, right in pairs:
            label[left] = label[right] = min(label[left], label[right])
    return label


@given(pairs=PAIRS, seed=st.randoms())
def test_clusters_are_connected_components_in_any_order(pairs: list[tuple[int, int]], seed: object) -> None:
    want = reachable(pairs)
    assert clusters(ROWS, pair_array(pairs)).tolist() == want
    shuffled = [(right, left) for left, right in sorted(pairs, key=lambda _: seed.random())]  # type: ignore[attr-defined]
    assert clusters(ROWS, pair_array(shuffled)).tolist() == want


def test_a_long_chain_is_one_cluster() -> None:
    chain = [(row, row + 1) for row in range(5000)]
    assert set(clusters(5001, pair_array(chain[::-1])).tolist()) == {0}


@given(keys=st.lists(st.integers(0, 5), max_size=30))
def test_buckets_hold_the_rows_of_equal_keys(keys: list[int]) -> None:
    found = [bucket.tolist() for bucket in buckets(np.array(keys, dtype=np.uint64))]
    want = [[row for row, key in enumerate(keys) if key == value] for value in range(6)]
    assert sorted(found) == sorted(rows for rows in want if len(rows) > 1)


def test_no_pair_still_has_two_columns() -> None:
    assert pair_array([]).shape == (0, 2)
