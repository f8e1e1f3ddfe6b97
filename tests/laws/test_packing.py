"""Laws of the family llm.data.packing: every strategy obeys them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data.packing.base import Strategy

FAMILY = "llm.data.packing"
KINDS = registry.kinds(FAMILY)

capacities_and_lengths = st.integers(1, 40).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), min_size=1, max_size=60))
)


def strategy(kind: str) -> Strategy:
    return registry.build(registry.module(FAMILY, kind).Config())  # type: ignore[no-any-return]


def test_members() -> None:
    assert {"best_fit", "next_fit"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(case=capacities_and_lengths)
def test_rows_hold_their_pieces(kind: str, case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    rows_P = strategy(kind).assign(np.array(lengths), capacity)
    assert rows_P.shape == (len(lengths),)  # every piece is in exactly one row
    fills = np.bincount(rows_P, weights=lengths)
    assert (fills > 0).all()  # row numbers have no gaps
    assert (fills <= capacity).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(case=capacities_and_lengths)
def test_less_than_twice_the_fewest_rows(kind: str, case: tuple[int, list[int]]) -> None:
    # Next-fit: two neighbouring rows together overflow one row, so rows < 2 * total / capacity + 1.
    capacity, lengths = case
    n_rows = int(strategy(kind).assign(np.array(lengths), capacity).max()) + 1
    assert n_rows < 2 * sum(lengths) / capacity + 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_input_equal_rows(kind: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 65, size=300)
    first, second = (strategy(kind).assign(lengths.copy(), 64) for _ in range(2))
    assert (first == second).all()


@pytest.mark.parametrize("kind", KINDS)
def test_full_pieces_fill_rows_completely(kind: str) -> None:
    rows_P = strategy(kind).assign(np.full(7, 33), 33)
    assert sorted(rows_P.tolist()) == list(range(7))
