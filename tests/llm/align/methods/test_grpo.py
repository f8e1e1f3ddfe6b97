"""GRPO end to end: it learns a toy task, resumes exactly, and its numbers mean what they say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llm import registry
from llm.align import rollout
from llm.align.align import align
from llm.align.methods.base import AlignData
from llm.align.methods.grpo import Config
from llm.align.policy import PolicyMethod, policy_logps
from llm.nn.io import load_model
from llm.params import from_dict


def _config(world: Any, **changes: Any) -> Config:
    fields = {
        "prompts_per_step": 2,
        "group_size": 4,
        "kinds": ["words"],
        "max_new_tokens": 5,
        "micro_rows": 8,
        "eval_prompts": 6,
        "kl_beta": 0.04,
        **changes,
    }
    return from_dict(Config, world.loop(**fields), "align.grpo")


def _align(world: Any, params: Config, seed: int = 1) -> Any:
    return align(world.base, world.encoded("preference"), world.encoded("prompts"), params, seed)


def _small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward: share of the answer's characters that are small letters, a task a random model can climb."""

    def score(rule: Any, prompt_text: str, completion: str, *, ended: bool) -> float:
        return sum("a" <= letter <= "z" for letter in completion) / max(len(completion), 1)

    monkeypatch.setattr(rollout.rules, "score", score)


@pytest.mark.parametrize("aggregation", ["sequence", "constant"])
def test_learns_a_toy_task(world: Any, work: Path, monkeypatch: pytest.MonkeyPatch, aggregation: str) -> None:
    _small_letters(monkeypatch)
    optimizer = {"kind": "adamw", "lr": 0.02, "weight_decay": 0.0}
    params = _config(
        world,
        steps=30,
        prompts_per_step=6,
        group_size=8,
        micro_rows=48,
        aggregation=aggregation,
        updates_per_rollout=2,
        log_every=10,
        optimizer={"matrices": optimizer, "rest": optimizer},
    )
    _, result, metrics = _align(world, params)
    reward = metrics["held_out"]["all"]["reward"]
    assert reward["before"] < 0.4
    assert reward["after"] > 0.9
    assert reward["gain"] > 4 * reward["gain_se"]
    assert metrics["held_out"]["all"]["kl"]["after"] > 1
    assert result.history[-1]["clip_frac"] >= 0


def test_an_interrupted_run_ends_with_the_same_bytes(
    world: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two updates on one set of samples, the resumed run must reuse those samples."""
    _small_letters(monkeypatch)
    params = _config(world, steps=4, updates_per_rollout=2, save_every=1)
    whole, result, _ = _align(world, params)
    result.finish()

    original = PolicyMethod.objective
    calls = []

    def stop_at_fourth(self: Any, model: Any, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, model, batch)

    monkeypatch.setattr(PolicyMethod, "objective", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        _align(world, params)
    monkeypatch.setattr(PolicyMethod, "objective", original)
    resumed, again, _ = _align(world, params)
    assert again.history == result.history
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def _method(world: Any, work: Path, **changes: Any) -> Any:
    data = AlignData(
        preference=world.encoded("preference"),
        prompts=world.encoded("prompts"),
        tokenizer=world.tokenizer(),
        device=torch.device("cpu"),
        seed=5,
        work=work,
    )
    return registry.build(_config(world, **changes), load_model(world.base), data)


def test_batches_hold_whole_groups_and_count_before_the_loss(
    world: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_letters(monkeypatch)
    for how, divisor in (("sequence", 8), ("constant", 8 * 5)):
        method = _method(world, work, micro_rows=3, aggregation=how)
        batches = method.micro_batches(0)
        assert [len(batch.rows.tokens_BT) for batch in batches] == [3, 3, 2]
        assert sum(batch.count for batch in batches) == divisor
    rewards = torch.tensor([answer.reward for answer in method.rollouts(0)]).view(2, 4)
    assert torch.allclose(method.advantages(rewards).sum(1), torch.zeros(2), atol=1e-5)
    tokens = sum(len(answer.tokens) for answer in method.rollouts(0))
    assert sum(int(batch.rows.mask_BT.sum()) for batch in batches) == tokens
    assert sum(batch.facts["length"] for batch in batches) == tokens
    assert method.rollouts(0) == _method(world, work).rollouts(0)
    assert method.rollouts(0) != method.rollouts(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_distance_before_the_first_step(world: Any, work: Path, dtype: torch.dtype) -> None:
    method = _method(world, work)
    method.policy.to(dtype)
    assert (method.examples().values["kl"] == 0).all()
    method.policy.to(torch.float32)
    method.policy.head.weight.data[:40] += 0.5
    assert (method.examples().values["kl"] != 0).any()


def test_sampler_and_learner_agree_on_log_probabilities(world: Any, work: Path) -> None:
    """On fresh samples every ratio is 1, nothing is clipped, and the reference is where the policy is."""
    method = _method(world, work, temperature=0.7)
    (batch,) = method.micro_batches(0)
    loss = method.objective(method.policy, batch)
    scale = batch.count / len(batch.rows.tokens_BT)
    assert loss.parts["clip_frac"] == 0
    assert loss.parts["kl"] / scale == pytest.approx(0, abs=1e-6)
    logp, _ = policy_logps(method.policy, batch.rows, 0.7)
    mask = batch.rows.mask_BT
    assert torch.allclose(logp[mask], batch.old_BT[mask], atol=1e-4)
    assert (batch.old_BT[~mask] == 0).all()


def test_kinds_without_prompts_are_named(world: Any, work: Path) -> None:
    with pytest.raises(ValueError, match="'sums' has no prompts in .*; kinds are cloze, words"):
        _method(world, work, kinds=["sums"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"group_size": 1}, "group_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"clip_low": 1.0}, "clip_low"),
        ({"kl_beta": -0.1}, "kl_beta"),
        ({"updates_per_rollout": 0}, "updates_per_rollout"),
    ],
)
def test_impossible_settings_are_named(world: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(world, **bad)
