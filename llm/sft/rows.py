"""rows: documents with a loss mask -> right-padded batches, one document a row, and their log-probabilities.

What packed rows are to long training runs, these are to everything that needs a number per document:
validation losses, preference pairs, rollouts. Padding comes after a document and attention is causal, so
nothing needs to be masked in attention; padding is never scored.

Shapes      B rows, T tokens, M scored tokens, V vocabulary
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from llm.data.encoded import EncodedSet
from llm.nn.model import Decoder
from llm.nn.objective import TokenBatch, scored
from llm.runtime import derive_seed, progress
from llm.sft.logps import target_logps

WIDTH = 32  # batches are as wide as a multiple of this


@dataclass(frozen=True)
class Row:
    """ids: tokens of one document; mask: True where the token is a scored target (never the first one)."""

    ids: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def without_first(self, count: int) -> "Row":
        """The row without its first `count` tokens; what is left begins with an unscored token."""
        if count <= 0:
            return self
        mask = self.mask[count:].copy()
        mask[:1] = False
        return Row(self.ids[count:], mask)


def read_row(data: EncodedSet, index: int) -> Row:
    """Document `index` of an encoded set."""
    mask = data.mask(index).astype(bool)
    mask[:1] = False
    return Row(data.doc(index).astype(np.int64), mask)


def pieces(row: Row, max_len: int) -> list[Row]:
    """A long row as rows of at most `max_len` inputs; each begins with the last token of the one before,
    unscored, so that every target is scored exactly once."""
    starts = range(0, max(len(row) - 1, 1), max_len)
    parts = [Row(row.ids[i : i + max_len + 1], row.mask[i : i + max_len + 1].copy()) for i in starts]
    for part in parts:
        part.mask[:1] = False
    return parts


def stack(rows: Sequence[Row], max_len: int) -> TokenBatch:
    """Right-pad rows: tokens [B, T], targets one place to the right, mask of the targets."""
    width = padded(max(len(row) for row in rows) - 1, max_len) + 1
    ids_BW = np.zeros((len(rows), width), dtype=np.int64)
    mask_BW = np.zeros((len(rows), width), dtype=bool)
    for i, row in enumerate(rows):
        ids_BW[i, : len(row)] = row.ids
        mask_BW[i, : len(row)] = row.mask
    ids, mask = torch.from_numpy(ids_BW), torch.from_numpy(mask_BW)
    return TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), mask[:, 1:].contiguous())


def padded(longest: int, max_len: int) -> int:
    """The longest row rounded up to a multiple of WIDTH, but not beyond `max_len`.

    Libraries keep a prepared kernel for every shape they meet; with free widths memory grows step by step.
    """
    return max(longest, min(-(-longest // WIDTH) * WIDTH, max_len))


def groups_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split 0..n-1 into groups of similar length whose padded size stays below `max_tokens` (or one row)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and lengths[index] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def scored_logps(model: Decoder, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy at the scored places, [M] each, float32: only these reach the head."""
    h_BTD, _ = model.hidden(batch.tokens_BT, batch.segments_BT)
    targets_M = batch.targets_BT[batch.mask_BT]
    return target_logps(scored(h_BTD, batch.mask_BT), model.head.weight, targets_M, temperature)


def sequence_logps(model: Decoder, batch: TokenBatch) -> Tensor:
    """Sum of log p over the scored tokens of each row, [B], float32, differentiable."""
    return sum_rows(scored_logps(model, batch)[0], batch.mask_BT)


def sum_rows(values_M: Tensor, mask_BT: Tensor) -> Tensor:
    """Add up values of scored tokens row by row, [B]."""
    row_M = mask_BT.nonzero()[:, 0]
    return torch.zeros(len(mask_BT), dtype=values_M.dtype, device=values_M.device).index_add(
        0, row_M, values_M
    )


@torch.inference_mode()
def measure_rows(
    model: nn.Module,
    rows: Sequence[Row],
    measure: Callable[[Sequence[Row]], Tensor],
    *,
    label: str,
    max_tokens: int = 4096,
) -> np.ndarray:
    """`measure(some rows) -> one number each`, for all rows in their order, in batches of similar length.

    The model is put into eval mode for the time of the call. The result is float64.
    """
    out = np.zeros(len(rows))
    training = model.training
    model.eval()
    for group in progress(groups_by_length([len(row) for row in rows], max_tokens), label):
        out[group] = measure([rows[i] for i in group]).double().cpu().numpy()
    model.train(training)
    return out


def row_logps(model: Decoder, rows: Sequence[Row], *, label: str) -> np.ndarray:
    """Summed log-probability of the scored tokens of each row under `model`, no gradient, float64."""
    device = model.embedding.weight.device
    max_len = model.config.max_len
    return measure_rows(
        model, rows, lambda some: sequence_logps(model, to_device(stack(some, max_len), device)), label=label
    )


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers 0..count-1, evenly spaced: sets are ordered by kind."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted))})


def shuffled(count: int, *, per_step: int, step: int, seed: int) -> list[int]:
    """Which of `count` items a step takes: every epoch is its own permutation; a pure function of the step."""
    places = range(step * per_step, (step + 1) * per_step)
    orders = {epoch: _permutation(count, epoch, seed) for epoch in {place // count for place in places}}
    return [int(orders[place // count][place % count]) for place in places]


def _permutation(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "rows", epoch))).permutation(count)


def to_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """The batch on the device of the model."""
    if device.type == "cpu":
        return batch
    segments = None if batch.segments_BT is None else batch.segments_BT.to(device)
    return TokenBatch(
        batch.tokens_BT.to(device), batch.targets_BT.to(device), batch.mask_BT.to(device), segments
    )


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of independent numbers; 0 for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
