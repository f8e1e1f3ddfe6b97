"""The reward model: golden numbers, padding, what it learns, what it stores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.align.reward.fit import RewardParams, fit_reward, report
from llm.align.reward.model import (
    RewardModel,
    bradley_terry,
    load_reward_model,
    save_reward_model,
    score_batch,
)
from llm.nn.io import load_model, read_config
from llm.params import from_dict
from llm.sft.rows import Row

# golden numbers: own evaluation of the formula; the same formula was matched to TRL's RewardTrainer
CHOSEN = torch.tensor([1.0, 0.2], dtype=torch.float64)
REJECTED = torch.tensor([0.5, 0.4], dtype=torch.float64)


def _params(world: Any, **changes: Any) -> RewardParams:
    fields = {"batch_pairs": 12, "micro_pairs": 4, "max_tokens": 64, "eval_pairs": 6, **changes}
    return from_dict(RewardParams, world.loop(**fields), "reward")


def test_loss_equals_golden_numbers() -> None:
    loss = bradley_terry(CHOSEN, REJECTED)
    assert float(loss.mean()) == pytest.approx(0.6361079216, abs=1e-8)
    centred = bradley_terry(CHOSEN, REJECTED, centering=0.01) - loss
    assert centred.tolist() == pytest.approx([0.01 * 1.5**2, 0.01 * 0.6**2], abs=1e-12)


def test_gradient_is_the_chance_of_the_wrong_answer() -> None:
    chosen = CHOSEN.clone().requires_grad_()
    bradley_terry(chosen, REJECTED).sum().backward()
    assert torch.allclose(chosen.grad, -torch.sigmoid(REJECTED - CHOSEN))  # type: ignore[arg-type]


def test_padding_and_neighbours_do_not_change_a_score(world: Any) -> None:
    model = RewardModel(load_model(world.base)).eval()
    lengths = (5, 21, 9)
    rows = [Row(np.arange(1, n + 1), np.ones(n, dtype=bool)) for n in lengths]
    together = model(score_batch(rows, 128))
    for row, value in zip(rows, together, strict=True):
        assert torch.allclose(model(score_batch([row], 128)), value, atol=1e-5)
    changed = Row(np.append(np.arange(1, 5), 200), rows[0].mask)  # only the last token differs
    assert not torch.allclose(model(score_batch([changed], 128)), together[0], atol=1e-3)


def test_learns_what_is_preferred_and_comes_back_from_disk(world: Any, work: Path) -> None:
    params = _params(world, steps=12, eval_every=6)
    model, result, metrics = fit_reward(world.base, world.encoded("preference"), params, seed=1)
    result.finish()
    assert metrics["pairs"] == 12
    for kind in ("all", "easy", "hard"):
        assert metrics["held_out"][kind]["accuracy"] > 0.95
        assert metrics["held_out"][kind]["margin"] > 2 * metrics["held_out"][kind]["margin_se"]
    assert 0.5 < metrics["held_out"]["all"]["calibration"] <= 1
    assert result.history[-1]["val_loss"] < result.history[0]["loss"]

    save_reward_model(work / "reward", model, tokenizer=world.base / "tokenizer", extra={})
    loaded = load_reward_model(work / "reward")
    rows = [Row(np.arange(3, 20), np.ones(17, dtype=bool))]
    assert torch.equal(loaded(score_batch(rows, 128)), model.eval()(score_batch(rows, 128)))
    assert read_config(work / "reward")["stage"] == "reward"
    assert load_file(work / "reward" / "head.safetensors")["weight"].dtype == torch.float32


def test_scale_is_centred_on_chosen_training_answers(world: Any, work: Path) -> None:
    from llm.align.pairs import read_pairs
    from llm.align.reward.fit import scores

    model, result, _ = fit_reward(world.base, world.encoded("preference"), _params(world), seed=1)
    result.finish()
    pairs = read_pairs(world.encoded("preference") / "train", world.tokenizer(), 64)
    assert float(scores(model, pairs, "x")[0].mean()) == pytest.approx(0.0, abs=1e-4)


def test_report_of_a_model_that_likes_nothing(world: Any) -> None:
    from llm.align.pairs import read_pairs

    model = RewardModel(load_model(world.base))
    torch.nn.init.zeros_(model.score.weight)
    pairs = read_pairs(world.encoded("preference") / "validation", world.tokenizer(), 64)
    measured = report(model, pairs)
    assert measured["all"]["accuracy"] == 0.5  # ties count one half
    assert measured["all"]["calibration"] == 0.5
    assert measured["length_correlation"] == 0.0
    assert measured["easy"]["n"] + measured["hard"]["n"] == measured["all"]["n"] == 12


def test_folders_that_are_no_reward_model_are_named(world: Any, work: Path) -> None:
    with pytest.raises(ValueError, match="is no reward model; run: dvc repro reward"):
        load_reward_model(world.base)
    model = RewardModel(load_model(world.base))
    save_reward_model(work / "bad", model, tokenizer=world.base / "tokenizer", extra={})
    save_file({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, work / "bad" / "head.safetensors")
    with pytest.raises(ValueError, match="expected"):
        load_reward_model(work / "bad")
    (work / "bad" / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="damaged or truncated"):
        load_reward_model(work / "bad")


@pytest.mark.parametrize("bad", [{"eval_pairs": 0}, {"centering": -1.0}])
def test_impossible_settings_are_named(world: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        _params(world, **bad)
