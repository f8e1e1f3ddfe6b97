import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.packing import best_fit, next_fit


def assign(lengths: list[int] | np.ndarray, capacity: int) -> np.ndarray:
    return best_fit.build(best_fit.Config()).assign(np.array(lengths), capacity)


def fills_by_search(lengths: list[int], capacity: int) -> list[int]:
    """Best-fit decreasing by looking at every open row."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        enough = [space for space in free if space >= length]
        if enough:
            free.remove(min(enough))
            free.append(min(enough) - length)
        else:
            free.append(capacity - length)
    return sorted(capacity - space for space in free)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), min_size=1))))
def test_rows_are_as_full_as_those_of_a_plain_search(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    fills = np.bincount(assign(lengths, capacity), weights=lengths).astype(int)
    assert sorted(fills.tolist()) == fills_by_search(lengths, capacity)


def test_takes_the_smallest_sufficient_space() -> None:
    # 7 and 5 open rows with 3 and 5 free; the 3 goes where nothing is left over, the 2 to the other.
    assert assign([7, 5, 3, 2], 10).tolist() == [0, 1, 0, 1]


def test_number_of_rows_as_in_trl() -> None:
    # Golden: len(trl.data_utils.pack_dataset(Dataset of these lengths, 64, strategy="bfd")) == 281, trl 1.16;
    # the sorted row lengths are equal too, their sum of squares is frozen here.
    lengths = np.random.default_rng(0).integers(1, 65, size=500)
    rows_P = assign(lengths, 64)
    fills = np.bincount(rows_P, weights=lengths)
    assert len(fills) == 281
    assert int((fills**2).sum()) == 1046766
    assert next_fit.build(next_fit.Config()).assign(lengths, 64).max() + 1 == 356


def test_a_hundred_thousand_pieces_take_under_a_second() -> None:
    lengths = np.random.default_rng(1).integers(1, 258, size=100_000)
    t0 = time.process_time()
    rows_P = assign(lengths, 257)
    assert time.process_time() - t0 < 1.0
    assert lengths.sum() / ((rows_P.max() + 1) * 257) > 0.999
