"""Laws of the family llm.data.packing: every strategy obeys them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data.chunking import fixed, truncate
from llm.data.packing.base import Cutter, Strategy
from llm.data.pieces import chunk_documents

FAMILY = "llm.data.packing"
KINDS = registry.kinds(FAMILY)

capacities_and_lengths = st.integers(1, 40).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), min_size=1, max_size=60))
)


def strategy(kind: str) -> Strategy:
    return registry.build(registry.module(FAMILY, kind).Config())  # type: ignore[no-any-return]


CUTTERS = [kind for kind in KINDS if isinstance(strategy(kind), Cutter)]


def test_members() -> None:
    assert {"best_fit", "next_fit", "wrapped"} <= set(KINDS)
    assert CUTTERS == ["wrapped"]


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


@pytest.mark.parametrize("kind", CUTTERS)
@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=20).filter(any), capacity=st.integers(2, 20))
def test_a_cutter_gives_every_target_to_one_piece(kind: str, lengths: list[int], capacity: int) -> None:
    cutter = strategy(kind)
    assert isinstance(cutter, Cutter)
    pieces = cutter.cut(np.array(lengths), capacity)
    assert (pieces.lengths <= capacity).all()
    assert (pieces.contexts == 1).all()
    spans = zip(pieces.docs.tolist(), pieces.starts.tolist(), pieces.lengths.tolist(), strict=True)
    targets = [(doc, start + place) for doc, start, length in spans for place in range(1, length)]
    assert targets == [(doc, place) for doc, length in enumerate(lengths) for place in range(1, length)]


def row_lengths(kind: str, lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Tokens in each row, when documents of these lengths are packed."""
    chosen = strategy(kind)
    if isinstance(chosen, Cutter):
        pieces = chosen.cut(lengths, capacity).lengths
    else:
        pieces = chunk_documents(lengths, capacity - 1, fixed.build(fixed.Config())).lengths
    return np.bincount(chosen.assign(pieces, capacity), weights=pieces).astype(int)


@pytest.mark.parametrize("seed", range(5))
def test_wrapped_is_at_least_as_full_as_best_fit_and_that_as_next_fit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = np.maximum(2, generator.lognormal(5.0, 1.2, size=400).astype(int))  # as long as real documents
    fill = {kind: row_lengths(kind, lengths, 129).sum() / (row_lengths(kind, lengths, 129).size * 129)
            for kind in ("wrapped", "best_fit", "next_fit")}  # fmt: skip
    assert fill["wrapped"] >= fill["best_fit"] - 0.002 >= fill["next_fit"]
    assert fill["best_fit"] > 0.99
    assert fill["wrapped"] > 0.998
    assert 0.5 < fill["next_fit"] < 0.98


def test_rows_are_those_of_trl() -> None:
    from datasets import Dataset, disable_progress_bars
    from trl.data_utils import pack_dataset

    disable_progress_bars()
    lengths = np.random.default_rng(3).integers(2, 150, size=300)
    dataset = Dataset.from_dict({"input_ids": [[1] * n for n in lengths.tolist()]})
    for ours, theirs in ((truncate, "bfd"), (fixed, "bfd_split")):
        chunks = [ours.build(ours.Config()).cut(n, 64) for n in lengths.tolist()]
        pieces = np.array([end - start for spans in chunks for start, end in spans])
        rows = np.bincount(strategy("best_fit").assign(pieces, 64), weights=pieces)
        packed = pack_dataset(dataset, 64, strategy=theirs)
        assert sorted(rows.astype(int).tolist()) == sorted(map(len, packed["input_ids"]))
    # Theirs reads each token once; ours has one token more in a row, which the next row reads again.
    shorter = Dataset.from_dict({"input_ids": [[1] * (lengths.sum() - 1)]})
    rows = row_lengths("wrapped", lengths, 65)
    theirs = [len(row) for row in pack_dataset(shorter, 64, strategy="wrapped")["input_ids"]]
    assert len(rows) == len(theirs)
