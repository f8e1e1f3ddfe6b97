"""A spool gives back what came in, in memory and from a file."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from llm.data import spool
from llm.data.spool import Spool, chunks, take


@pytest.mark.parametrize("limit", [0, 100, 10**9])
def test_rows_come_back_in_order(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", limit)
    rows = np.arange(60, dtype=np.uint32).reshape(20, 3)
    made = Spool(tmp_path)
    made.append(rows[:0])
    for start in range(0, 20, 6):
        made.append(rows[start : start + 6])
    got = made.array()
    np.testing.assert_array_equal(got, rows)
    assert got.dtype == rows.dtype
    assert isinstance(got, np.memmap) == (limit < rows.nbytes)


def test_nothing_is_an_array_of_its_type() -> None:
    made = Spool()
    made.append(np.zeros((0, 4), dtype=np.uint16))
    assert (made.array().shape, made.array().dtype) == ((0, 4), np.uint16)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_take_picks_rows(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", limit)
    monkeypatch.setattr(spool, "_COPIED_BYTES", 60)
    rows = np.arange(30, dtype=np.int64).reshape(10, 3)
    picked = np.array([9, 0, 4, 4, 2, 7, 1])
    np.testing.assert_array_equal(take(rows, picked, tmp_path), rows[picked])
    assert take(rows, picked[:0], tmp_path).shape == (0, 3)


def test_chunks_are_all_of_it() -> None:
    array = np.arange(24).reshape(8, 3)[:, 1:]
    parts = list(chunks(array, 3))
    assert [len(part) for part in parts] == [3, 3, 2]
    assert all(part.flags.c_contiguous for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), array)


def test_a_large_array_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1 << 20)
    tracemalloc.start()
    made = Spool(tmp_path)
    for _ in range(200):
        made.append(np.ones((100, 128), dtype=np.uint32))
    got = made.array()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.nbytes > 10_000_000
    assert peak < 2_000_000
