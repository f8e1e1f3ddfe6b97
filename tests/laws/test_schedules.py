"""Laws of schedules: bounded by 1, linear warm-up that wastes no step, ends at its floor; equal to `transformers`."""

import pytest
import torch

from llm import registry
from llm.optim.schedules import cosine, wsd

KINDS = registry.kinds("llm.optim.schedules")
STEPS = 100


def build(kind, steps=STEPS, **fields):
    config = registry.module("llm.optim.schedules", kind).Config(**{"warmup_frac": 0.1, **fields})
    return registry.build(config, steps)


def hf(make, factors_from, **kwargs):
    """Factors of a schedule of transformers, by step."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer, **kwargs)
    [factor] = scheduler.lr_lambdas
    return [factor(step) for step in factors_from]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup_frac", [0.0, 0.1, 0.5])
def test_stays_between_zero_and_one_and_moves(kind, steps, warmup_frac):
    schedule = build(kind, steps, warmup_frac=warmup_frac)
    factors = [schedule.factor(step) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_is_linear_and_its_first_step_counts(kind):
    schedule = build(kind)
    assert [schedule.factor(step) for step in range(10)] == pytest.approx(
        [(step + 1) / 10 for step in range(10)]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_never_rises_after_warm_up_and_ends_at_the_floor(kind, floor):
    schedule = build(kind, min_frac=floor)
    factors = [schedule.factor(step) for step in range(10, STEPS)]
    assert factors == sorted(factors, reverse=True)
    assert schedule.after_warmup(STEPS) == pytest.approx(floor)  # the end of the last step


@pytest.mark.parametrize("kind", KINDS)
def test_fractions_outside_zero_one_are_refused(kind):
    with pytest.raises(ValueError, match="warmup_frac"):
        build(kind, warmup_frac=1.5)
    with pytest.raises(ValueError, match="min_frac"):
        build(kind, min_frac=-0.1)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_equals_transformers(floor):
    from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup as make

    schedule = cosine.build(cosine.Config(warmup_frac=0.1, min_frac=floor), STEPS)
    kwargs = {"num_warmup_steps": 10, "num_training_steps": STEPS, "min_lr_rate": floor}
    after = range(10, STEPS)
    assert [schedule.factor(step) for step in after] == pytest.approx(hf(make, after, **kwargs))
    if not floor:  # theirs starts at 0 and, with a floor, lifts the ramp too
        ramp = hf(make, range(1, 11), **kwargs)
        assert [schedule.factor(step) for step in range(10)] == pytest.approx(ramp)


@pytest.mark.parametrize("decay", ["linear", "1-sqrt", "cosine"])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_wsd_equals_transformers(decay, floor):
    from transformers.optimization import get_wsd_schedule as make

    config = wsd.Config(warmup_frac=0.1, decay_frac=0.3, decay=decay, min_frac=floor)
    kwargs = {
        "num_warmup_steps": 10,
        "num_stable_steps": 60,
        "num_decay_steps": 30,
        "decay_type": decay,
        "min_lr_ratio": floor,
    }
    after = range(10, STEPS)
    assert [wsd.build(config, STEPS).factor(step) for step in after] == pytest.approx(
        hf(make, after, **kwargs)
    )


def test_wsd_refuses_overlapping_phases():
    with pytest.raises(ValueError, match="at most 1"):
        wsd.Config(warmup_frac=0.5, decay_frac=0.6)
