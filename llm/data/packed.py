"""packed: packed rows, opened as memory maps, and the order in which training reads them.

Shapes      R rows, W = seq_len + 1 tokens a row, B rows of a micro-batch, T = seq_len
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.data.encoded import dtype_of, open_array, read_meta
from llm.nn.objective import TokenBatch
from llm.runtime import derive_seed


@dataclass(frozen=True)
class PackedRows:
    """A packed set, opened read-only. Fields as in llm/data/pack.py."""

    folder: Path
    meta: dict[str, Any]
    rows: np.ndarray
    segments: np.ndarray
    mask: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "PackedRows":
        """Open a packed folder. Raises ValueError naming the file and the stage to run when it is damaged."""
        meta = read_meta(folder, "pack", ("n_rows", "seq_len", "dtype", "vocab_size", "tokenizer_hash"))
        shape = (meta["n_rows"], meta["seq_len"] + 1)
        return cls(
            folder,
            meta,
            open_array(folder / "rows.bin", dtype_of(meta["dtype"]), shape, meta),
            open_array(folder / "segments.bin", np.dtype("<u2"), shape, meta),
            open_array(folder / "mask.bin", np.dtype("u1"), shape, meta),
        )

    @property
    def n_rows(self) -> int:
        return int(self.meta["n_rows"])

    @property
    def seq_len(self) -> int:
        return int(self.meta["seq_len"])

    def batch(self, rows_B: np.ndarray) -> TokenBatch:
        """The rows with the given numbers: inputs, targets one place to the right, mask and segments."""
        rows = torch.from_numpy(self.rows[rows_B].astype(np.int64))
        segments = torch.from_numpy(self.segments[rows_B].astype(np.int64))
        scored = torch.from_numpy(self.mask[rows_B].astype(bool))
        # A target is scored only from its own document: never the first token of a segment, never padding.
        same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
        return TokenBatch(
            tokens_BT=rows[:, :-1].contiguous(),
            targets_BT=rows[:, 1:].contiguous(),
            mask_BT=scored[:, 1:] & same,
            segments_BT=segments[:, :-1].contiguous(),
        )


class RowSource:
    """Which rows each step trains on: a pure function of (seed, step), so resuming needs no state.

    Every epoch is its own permutation of all rows; a step takes the next `rows_per_step`, across the border
    of an epoch too, and hands them out in micro-batches of `micro_rows` (the last may be smaller).
    """

    def __init__(self, packed: PackedRows, *, seed: int, rows_per_step: int, micro_rows: int) -> None:
        if rows_per_step < 1 or micro_rows < 1:
            raise ValueError(
                f"rows: rows_per_step ({rows_per_step}) and micro_rows ({micro_rows}) must be positive"
            )
        self.packed, self.seed = packed, seed
        self.rows_per_step, self.micro_rows = rows_per_step, micro_rows
        self._permutations: dict[int, np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of a step, int64 [rows_per_step]."""
        n_rows = self.packed.n_rows
        place_B = np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        epoch_B, place_B = place_B // n_rows, place_B % n_rows
        rows_B = np.empty(len(place_B), dtype=np.int64)
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            rows_B[epoch_B == epoch] = self._permutation(epoch)[place_B[epoch_B == epoch]]
        return rows_B

    def micro_batches(self, step: int) -> list[TokenBatch]:
        """The batches whose losses and gradients are summed in a step."""
        rows_B = self.rows(step)
        return [
            self.packed.batch(rows_B[start : start + self.micro_rows])
            for start in range(0, self.rows_per_step, self.micro_rows)
        ]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            if len(self._permutations) > 1:  # a cache: only the running epoch and the one before are kept
                self._permutations.pop(min(self._permutations))
            generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "rows", epoch)))
            self._permutations[epoch] = generator.permutation(self.packed.n_rows)
        return self._permutations[epoch]
