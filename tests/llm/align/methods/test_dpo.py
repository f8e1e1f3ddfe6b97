"""DPO against golden numbers (float64, the formulas; matched to TRL's trainer) and end to end."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llm import registry
from llm.align.align import align
from llm.align.methods.dpo import Config, dpo_loss
from llm.align.preference import SeqLogps
from llm.params import from_dict

POLICY = SeqLogps(
    torch.tensor([-10.0, -8.0, -12.0], dtype=torch.float64),
    torch.tensor([-11.0, -7.0, -15.0], dtype=torch.float64),
    torch.tensor([5, 4, 6]),
    torch.tensor([4, 5, 7]),
)
REF = SeqLogps(
    torch.tensor([-10.5, -8.2, -11.0], dtype=torch.float64),
    torch.tensor([-10.8, -7.5, -14.0], dtype=torch.float64),
    POLICY.chosen_tokens_P,
    POLICY.rejected_tokens_P,
)


def _config(world: Any, **changes: Any) -> Config:
    fields = {"batch_pairs": 6, "micro_pairs": 4, "max_tokens": 64, "beta": 0.1, **changes}
    return from_dict(Config, world.loop(**fields), "align.dpo")


def test_loss_equals_golden_numbers(world: Any) -> None:
    plain = dpo_loss(POLICY, REF, _config(world))
    assert plain.tolist() == pytest.approx([0.6587595555, 0.7082596763, 0.6931471806], abs=1e-9)
    assert float(plain.mean()) == pytest.approx(0.6867221375, abs=1e-9)
    smoothed = dpo_loss(POLICY, REF, _config(world, label_smoothing=0.1))
    assert float(smoothed.mean()) == pytest.approx(0.6880554708, abs=1e-9)
    likelihood = dpo_loss(POLICY, REF, _config(world, nll_weight=1.0)) - plain
    assert likelihood.tolist() == pytest.approx([10 / 5, 8 / 4, 12 / 6], abs=1e-9)


def test_gradient_is_beta_times_the_chance_of_being_wrong(world: Any) -> None:
    chosen = POLICY.chosen_P.clone().requires_grad_()
    policy = SeqLogps(chosen, POLICY.rejected_P, POLICY.chosen_tokens_P, POLICY.rejected_tokens_P)
    loss = dpo_loss(policy, REF, _config(world))
    loss.sum().backward()
    wrong = 1 - torch.exp(-loss.detach())  # sigmoid(-beta h)
    assert torch.allclose(chosen.grad, -0.1 * wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_raises_held_out_margin_and_accuracy(world: Any, work: Path, precision: str) -> None:
    params = _config(world, steps=10, precision=precision, eval_every=5)
    _, result, metrics = align(
        world.base, world.encoded("preference"), world.encoded("prompts"), params, seed=1
    )
    result.finish()
    assert metrics["method"] == "dpo"
    for kind in ("all", "easy", "hard"):
        report = metrics["held_out"][kind]
        assert report["margin"]["before"] == 0.0
        assert report["accuracy"]["before"] == 0.5  # policy = reference: every pair is a tie
        assert report["accuracy"]["after"] == 1.0
        assert report["margin"]["gain"] > 4 * report["margin"]["gain_se"] > 0
    assert metrics["held_out"]["all"]["n"] == 12
    first = result.history[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=2e-2 if precision == "bf16" else 1e-6)
    assert result.history[-1]["val_margin"] > 0


def test_a_step_reads_each_pair_once_and_pairs_stay_together(world: Any, work: Path) -> None:
    from llm.align.methods.base import AlignData
    from llm.nn.io import load_model

    data = AlignData(
        preference=world.encoded("preference"),
        prompts=world.encoded("prompts"),
        tokenizer=world.tokenizer(),
        device=torch.device("cpu"),
        seed=5,
        work=work,
    )
    method = registry.build(_config(world, batch_pairs=12, steps=1), load_model(world.base), data)
    batches = method.micro_batches(0)
    assert [batch.count for batch in batches] == [4, 4, 4]
    tokenizer, seen = world.tokenizer(), []
    for batch in batches:
        for i in range(batch.count):
            texts = [
                tokenizer.decode(
                    batch.rows.targets_BT[row][batch.rows.mask_BT[row]].tolist(), skip_special=True
                )
                for row in (i, i + batch.count)
            ]
            assert texts[0].startswith("Gladly")
            assert not texts[1].startswith("Gladly")
            seen.append(tuple(texts))
        assert torch.equal(batch.rows.tokens_BT[0, :6], batch.rows.tokens_BT[batch.count, :6])
    assert len(set(seen)) == 12
    first = method.objective(method.policy, batches[0])
    assert float(first.sum.detach()) / first.count == pytest.approx(math.log(2), abs=1e-5)


def test_an_answer_longer_than_allowed_is_named(world: Any, work: Path) -> None:
    with pytest.raises(ValueError, match="raise max_tokens"):
        align(
            world.base, world.encoded("preference"), world.encoded("prompts"), _config(world, max_tokens=8), 1
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"beta": 0.0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"nll_weight": -1.0}, "nll_weight"),
        ({"batch_pairs": 0}, "batch_pairs"),
        ({"max_tokens": 1}, "max_tokens"),
    ],
)
def test_impossible_settings_are_named(world: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(world, **bad)
