"""Laws of every loss over pairs: its value where the policy is the reference, what raises and lowers it."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llm import registry
from llm.align.preference import PreferenceMethod, SeqLogps
from llm.params import from_dict

FAMILY = "llm.align.methods"
ADAMW = {"kind": "adamw", "lr": 0.01}
LOOP = {
    "steps": 1,
    "log_every": 1,
    "eval_every": 0,
    "save_every": 0,
    "grad_clip": 1.0,
    "precision": "fp32",
    "optimizer": {"matrices": ADAMW, "rest": ADAMW},
    "schedule": {"kind": "cosine", "warmup_frac": 0.1},
    "batch_pairs": 2,
    "micro_pairs": 2,
    "max_tokens": 64,
}
# fields of the Config, and the loss of each pair where the policy is the reference
CASES: dict[str, list[tuple[dict[str, Any], float]]] = {
    "dpo": [({"beta": 0.1}, math.log(2)), ({"beta": 0.7, "label_smoothing": 0.2}, math.log(2))],
}


def _methods() -> Iterator[Any]:
    for kind in registry.kinds(FAMILY):
        module = registry.module(FAMILY, kind)
        if issubclass(module.build, PreferenceMethod):
            for number, (fields, known) in enumerate(CASES[kind]):  # a kind without a case fails here
                method = module.build.__new__(module.build)  # the loss alone, without data
                method.config = from_dict(module.Config, {**LOOP, **fields}, kind)
                yield pytest.param(method, known, id=f"{kind}-{number}")


def _logps(seed: int, pairs: int = 5) -> SeqLogps:
    generator = torch.Generator().manual_seed(seed)
    numbers = -20 * torch.rand(2, pairs, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, 30, (2, pairs), generator=generator)
    return SeqLogps(numbers[0], numbers[1], tokens[0], tokens[1])


def _swapped(logps: SeqLogps) -> SeqLogps:
    return SeqLogps(logps.rejected_P, logps.chosen_P, logps.rejected_tokens_P, logps.chosen_tokens_P)


def _gradients(method: Any, policy: SeqLogps, ref: SeqLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = (x.clone().requires_grad_() for x in (policy.chosen_P, policy.rejected_P))
    moved = SeqLogps(chosen, rejected, policy.chosen_tokens_P, policy.rejected_tokens_P)
    return torch.autograd.grad(method.loss(moved, ref).sum(), (chosen, rejected))


@pytest.mark.parametrize(("method", "known"), _methods())
def test_known_value_where_policy_is_reference(method: Any, known: float) -> None:
    if method.needs_ref:
        losses = method.loss(_logps(1), _logps(1))
        assert torch.allclose(losses, torch.full_like(losses, known), atol=1e-12)
        assert (method.margins(_logps(1), _logps(1)) == 0).all()


@pytest.mark.parametrize(("method", "known"), _methods())
def test_widening_the_margin_lowers_the_loss(method: Any, known: float) -> None:
    policy, ref = _logps(2), _logps(2)
    losses = []
    for wider in (-2.0, -0.5, 0.0, 0.1, 0.2):  # with smoothing a far too wide one costs again
        moved = SeqLogps(
            policy.chosen_P + wider,
            policy.rejected_P - wider,
            policy.chosen_tokens_P,
            policy.rejected_tokens_P,
        )
        losses.append(method.loss(moved, ref))
    for before, after in itertools.pairwise(losses):
        assert (after < before).all()
    chosen, rejected = _gradients(method, policy, ref)
    assert (chosen < 0).all()
    assert (rejected > 0).all()


@pytest.mark.parametrize(("method", "known"), _methods())
def test_swapping_a_pair_mirrors_it(method: Any, known: float) -> None:
    policy, ref = _logps(3), _logps(4)
    assert torch.allclose(
        method.margins(_swapped(policy), _swapped(ref)), -method.margins(policy, ref), atol=1e-12
    )
    chosen, rejected = _gradients(method, policy, ref)
    assert torch.allclose(chosen, -rejected, atol=1e-12)  # what one side gains the other loses
    at_ref = _gradients(method, ref, ref)
    mirrored = _gradients(method, _swapped(ref), _swapped(ref))
    assert torch.allclose(at_ref[0], mirrored[0], atol=1e-12)


@pytest.mark.parametrize(("method", "known"), _methods())
def test_pairs_do_not_mix(method: Any, known: float) -> None:
    policy, ref = _logps(5), _logps(6)
    one = torch.tensor([3])
    alone = method.loss(
        SeqLogps(*(getattr(policy, name)[one] for name in policy.__dataclass_fields__)),
        SeqLogps(*(getattr(ref, name)[one] for name in ref.__dataclass_fields__)),
    )
    assert torch.allclose(alone, method.loss(policy, ref)[one], atol=1e-12)
