"""Laws of every policy-gradient loss: REINFORCE on its own samples, silence without differences, no padding."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llm import registry
from llm.align import terms
from llm.align.policy import PolicyMethod
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
    "prompts_per_step": 2,
    "group_size": 3,
    "kinds": ["words"],
    "max_new_tokens": 7,
    "micro_rows": 6,
    "eval_prompts": 1,
}
CASES: dict[str, list[dict[str, Any]]] = {
    "grpo": [
        {"kl_beta": 0.1},
        {"kl_beta": 0.0, "aggregation": "token", "clip_high": 0.28},
        {"kl_beta": 0.1, "aggregation": "constant", "scale_advantages": False},
    ],
}


def _methods() -> Iterator[Any]:
    for kind in registry.kinds(FAMILY):
        module = registry.module(FAMILY, kind)
        if issubclass(module.build, PolicyMethod):
            for number, fields in enumerate(CASES[kind]):  # a kind without a case fails here
                method = module.build.__new__(module.build)  # the loss alone, without data
                method.params = method.config = from_dict(module.Config, {**LOOP, **fields}, kind)
                yield pytest.param(method, id=f"{kind}-{number}")


def _sampled(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [6, 7], a mask with answers of different lengths, rewards [2, 3]."""
    generator = torch.Generator().manual_seed(seed)
    logp = -3 * torch.rand(6, 7, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 2, 5, 1, 4, 6])
    mask = torch.arange(7) < lengths[:, None]
    return logp, mask, torch.rand(2, 3, generator=generator, dtype=torch.float64)


def _loss(method: Any, logp: Tensor, old: Tensor, ref: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    per_token = method.loss(logp, old, ref, advantage)
    how, room = method.params.aggregation, method.params.max_new_tokens
    return terms.aggregate(per_token, mask, how) / terms.divisor(mask, how, room)


@pytest.mark.parametrize("method", _methods())
def test_on_policy_gradient_is_reinforce(method: Any) -> None:
    logp, mask, rewards = _sampled()
    advantage = method.advantages(rewards).flatten()[:, None]
    now = logp.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(method, now, logp, logp, advantage, mask), now)

    how, room = method.params.aggregation, method.params.max_new_tokens
    reinforce = terms.aggregate(-advantage * now, mask, how) / terms.divisor(mask, how, room)
    (expected,) = torch.autograd.grad(reinforce, now)
    assert expected.abs().max() > 0
    assert torch.allclose(gradient, expected, atol=1e-12)


@pytest.mark.parametrize("method", _methods())
def test_equal_rewards_teach_nothing(method: Any) -> None:
    logp, mask, _ = _sampled()
    advantage = method.advantages(torch.full((2, 3), 0.7, dtype=torch.float64)).flatten()[:, None]
    assert advantage.abs().max() < 1e-9
    now = logp.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(method, now, logp, logp, advantage, mask), now)
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("method", _methods())
def test_better_answers_than_the_group_become_more_likely(method: Any) -> None:
    logp, mask, rewards = _sampled()
    advantage = method.advantages(rewards).flatten()[:, None]
    now = logp.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(method, now, logp, logp, advantage, mask), now)
    assert ((gradient * advantage)[mask] < 0).all()


@pytest.mark.parametrize("method", _methods())
def test_padding_never_matters(method: Any) -> None:
    logp, mask, rewards = _sampled()
    old, ref = _sampled(1)[0], _sampled(2)[0]
    advantage = method.advantages(rewards).flatten()[:, None]
    results = []
    for padding in (0.0, -1e6, 50.0):
        now = logp.masked_fill(~mask, padding).requires_grad_()
        loss = _loss(method, now, old, ref.masked_fill(~mask, -padding), advantage, mask)
        results.append((loss, *torch.autograd.grad(loss, now)))
    wide = torch.nn.functional.pad(logp, (0, 3)).requires_grad_()
    loss = _loss(
        method,
        wide,
        torch.nn.functional.pad(old, (0, 3)),
        torch.nn.functional.pad(ref, (0, 3)),
        advantage,
        torch.nn.functional.pad(mask, (0, 3)),
    )
    results.append((loss, torch.autograd.grad(loss, wide)[0][:, :7]))
    for value, gradient in results[1:]:
        assert torch.allclose(value, results[0][0], atol=1e-12)
        assert torch.allclose(gradient, results[0][1], atol=1e-12)
    assert (results[0][1][~mask] == 0).all()
