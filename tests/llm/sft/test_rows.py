"""Rows: padding changes nothing, every target is scored once, steps read what they should."""

import numpy as np
import torch

from llm.nn.io import load_model
from llm.nn.objective import token_logps
from llm.sft.rows import (
    Row,
    groups_by_length,
    measure_rows,
    padded,
    pieces,
    row_logps,
    sequence_logps,
    shuffled,
    spread,
    stack,
    standard_error,
)


def _row(length: int, scored_from: int, seed: int = 0) -> Row:
    ids = np.random.default_rng(seed).integers(0, 300, length)
    return Row(ids, np.arange(length) >= scored_from)


def test_stack_shifts_once_and_pads_right() -> None:
    batch = stack([Row(np.array([5, 6, 7]), np.array([False, False, True])), _row(5, 2)], 4)
    assert batch.tokens_BT.shape == (2, 4)
    assert batch.tokens_BT[0, :2].tolist() == [5, 6]
    assert batch.targets_BT[0, :2].tolist() == [6, 7]
    assert batch.mask_BT.tolist() == [[False, True, False, False], [False, True, True, True]]
    assert batch.count == 4


def test_widths_are_rounded_up_but_never_beyond_the_model() -> None:
    assert [padded(longest, 100) for longest in (1, 32, 33, 90, 100)] == [32, 32, 64, 96, 100]
    wide, exact = stack([_row(6, 2)], 64), stack([_row(6, 2)], 5)
    assert wide.tokens_BT.shape == (1, 32)
    assert wide.count == exact.count == 4
    assert torch.equal(wide.tokens_BT[:, :5], exact.tokens_BT)


def test_sums_equal_those_of_each_row_alone(world) -> None:  # type: ignore[no-untyped-def]
    model = load_model(world.base)
    rows = [_row(9, 4, seed=1), _row(30, 10, seed=2), _row(17, 16, seed=3)]
    together = sequence_logps(model, stack(rows, 128))
    for row, value in zip(rows, together, strict=True):
        logps = token_logps(model, torch.from_numpy(row.ids)[None])[0]
        assert torch.allclose(value, logps[torch.from_numpy(row.mask[1:])].sum(), atol=1e-4)
    assert np.allclose(row_logps(model, rows, label="x"), together.detach().numpy(), atol=1e-4)


def test_measure_keeps_the_order_and_the_mode(world) -> None:  # type: ignore[no-untyped-def]
    model = load_model(world.base).train()
    rows = [_row(length, 1) for length in (9, 3, 12, 3, 7)]

    def lengths(some) -> torch.Tensor:  # type: ignore[no-untyped-def]
        assert not model.training
        return torch.tensor([float(len(row)) for row in some])

    assert measure_rows(model, rows, lengths, label="x", max_tokens=12).tolist() == [9, 3, 12, 3, 7]
    assert model.training


def test_pieces_score_every_target_once() -> None:
    row = _row(100, 1)
    for width in (1, 7, 33, 99, 200):
        parts = pieces(row, width)
        assert all(len(part) <= width + 1 for part in parts)
        assert not any(part.mask[0] for part in parts)
        scored = np.concatenate([part.ids[part.mask] for part in parts])
        assert scored.tolist() == row.ids[1:].tolist()


def test_a_row_without_its_beginning_starts_unscored() -> None:
    row = _row(10, 4).without_first(5)
    assert len(row) == 5
    assert row.mask.tolist() == [False, True, True, True, True]


def test_groups_hold_every_row_once_and_stay_small() -> None:
    lengths = [5, 50, 7, 7, 8, 40, 200, 6]
    groups = groups_by_length(lengths, 60)
    assert sorted(i for group in groups for i in group) == list(range(8))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 60


def test_every_epoch_reads_everything_once_in_another_order() -> None:
    steps = [shuffled(10, per_step=4, step=step, seed=3) for step in range(5)]
    flat = [i for step in steps for i in step]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert steps[2] == shuffled(10, per_step=4, step=2, seed=3)
    assert steps[0] != shuffled(10, per_step=4, step=0, seed=4)


def test_spread_covers_the_whole_set() -> None:
    assert spread(100, 5) == [0, 24, 49, 74, 99]
    assert spread(3, 10) == [0, 1, 2]


def test_standard_error_is_that_of_the_mean() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert np.isclose(standard_error(values), np.sqrt(np.var(values, ddof=1) / 4))
    assert standard_error(values[:1]) == 0.0
