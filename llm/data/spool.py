"""spool: an array that grows row by row; what is small stays in memory, what is large lies in a file.

A file is mapped, not read: pages come and go as they are looked at, and the kernel may drop them when memory
is short. Files have no name and vanish with the process.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

IN_MEMORY_BYTES = 1 << 28  # larger arrays lie in a file
_COPIED_BYTES = 1 << 18


class Spool:
    """Rows in the order in which they came. folder: where the file of a large array is made."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._parts: list[NDArray[Any]] = []
        self._file: IO[bytes] | None = None
        self._n_rows = self._n_bytes = 0

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows of the same width and type as those before."""
        self._n_rows += len(rows)
        self._n_bytes += rows.nbytes
        if self._file is not None:
            self._file.write(rows.tobytes())
            return
        self._parts.append(rows)
        if self._n_bytes > IN_MEMORY_BYTES:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as its map
            for part in self._parts:
                self._file.write(part.tobytes())
            self._parts = [rows[:0]]

    def array(self) -> NDArray[Any]:
        """All rows; at least one call of `append`, be it with no rows, must have said their type."""
        if self._file is None:
            return np.concatenate(self._parts)
        self._file.flush()
        sample = self._parts[0]
        shape = (self._n_rows, *sample.shape[1:])
        return np.memmap(self._file, dtype=sample.dtype, mode="r", shape=shape)


def take(array: NDArray[Any], rows: NDArray[np.int64], folder: Path | None = None) -> NDArray[Any]:
    """`array[rows]`, in a file where it is large."""
    if len(rows) * array[:1].nbytes <= IN_MEMORY_BYTES:
        return np.asarray(array[rows])  # one copy; pieces and their sum would be two
    spool = Spool(folder)
    spool.append(array[:0])
    n_rows = 1 + _COPIED_BYTES // max(1, array[:1].nbytes)
    for start in range(0, len(rows), n_rows):
        spool.append(np.asarray(array[rows[start : start + n_rows]]))
    return spool.array()


def chunks(array: NDArray[Any], n_rows: int = 1 << 14) -> Iterator[NDArray[Any]]:
    """The array in pieces of so many rows, each copied into memory as one block."""
    for start in range(0, len(array), n_rows):
        yield np.ascontiguousarray(array[start : start + n_rows])
