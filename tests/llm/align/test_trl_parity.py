"""Losses and gradients equal TRL's, called unbound on CPU. One file: importing TRL takes seconds."""

import contextlib
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llm.align import terms
from llm.align.methods.dpo import Config as DPOConfig
from llm.align.methods.dpo import dpo_loss
from llm.align.methods.grpo import Config as GRPOConfig
from llm.align.methods.grpo import grpo_loss
from llm.align.preference import split_pairs
from llm.align.reward.model import bradley_terry
from llm.params import from_dict

B, PROMPT, T = 6, 3, 5


class Accelerator:
    """One process: gathering and reducing change nothing."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, x: Tensor) -> Tensor:
        return x

    gather_for_metrics = gather

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        return x


def _trainer(**attributes: Any) -> SimpleNamespace:
    args = SimpleNamespace(
        use_bias_correction_kl=False, delta=None, center_rewards_coefficient=attributes.pop("centering", None)
    )
    return SimpleNamespace(
        accelerator=Accelerator(),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        args=args,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )


def _random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _lengths_mask() -> Tensor:
    return torch.arange(T) < torch.tensor([5, 2, 4, 1, 5, 3])[:, None]


@pytest.mark.parametrize(
    ("loss_type", "aggregation"), [("grpo", "sequence"), ("bnpo", "token"), ("dr_grpo", "constant")]
)
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_grpo_equals_trl(world: Any, loss_type: str, aggregation: terms.Aggregation, beta: float) -> None:
    from trl.trainer.grpo_trainer import GRPOTrainer

    old, ref = -3 * _random(B, T, seed=1), -3 * _random(B, T, seed=2)
    advantages, mask = _random(B, seed=3) - 0.5, _lengths_mask()
    logp = (-3 * _random(B, T, seed=4)).requires_grad_()
    trainer = _trainer(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.28,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=T,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros(B, T), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(B, PROMPT, dtype=torch.long),
        "prompt_mask": torch.ones(B, PROMPT, dtype=torch.long),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
    }
    expected = GRPOTrainer._compute_loss(trainer, None, inputs)
    (expected_gradient,) = torch.autograd.grad(expected, logp)

    fields = {"prompts_per_step": 2, "group_size": 3, "kinds": ["words"], "max_new_tokens": T}
    fields |= {"micro_rows": B, "eval_prompts": 1, "kl_beta": beta, "clip_high": 0.28}
    config = from_dict(GRPOConfig, world.loop(**fields), "grpo")
    per_token = grpo_loss(logp, old, ref, advantages[:, None], config)
    ours = terms.aggregate(per_token, mask, aggregation) / terms.divisor(mask, aggregation, T)
    (gradient,) = torch.autograd.grad(ours, logp)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)
    clipped = terms.is_clipped(terms.ratios(logp, old), advantages[:, None], 0.2, 0.28)[mask]
    share = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert 0 < share < 1
    assert float(clipped.float().mean()) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_equals_trl(world: Any, beta: float) -> None:
    from trl.trainer.dpo_trainer import DPOTrainer

    mask = _lengths_mask()  # three chosen rows, then three rejected ones
    per_token = (-3 * _random(B, T, seed=1)).requires_grad_()
    ref = (-3 * _random(B, T, seed=2) * mask).sum(1)
    trainer = _trainer(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
    )

    def model(**_: Any) -> SimpleNamespace:
        zeros = torch.zeros(B, T)
        return SimpleNamespace(
            log_probs=per_token * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )

    inputs = {
        "input_ids": torch.zeros(B, T + 1, dtype=torch.long),
        "attention_mask": torch.ones(B, T + 1, dtype=torch.long),
        "completion_mask": torch.cat([torch.zeros(B, 1, dtype=torch.bool), mask], 1).long(),
        "ref_chosen_logps": ref[:3],
        "ref_rejected_logps": ref[3:],
    }
    expected = DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    (expected_gradient,) = torch.autograd.grad(expected, per_token)

    fields = {"batch_pairs": 3, "micro_pairs": 3, "max_tokens": 9, "beta": beta}
    config = from_dict(DPOConfig, world.loop(**fields), "dpo")
    tokens = mask.sum(1)
    losses = dpo_loss(split_pairs((per_token * mask).sum(1), tokens), split_pairs(ref, tokens), config)
    (gradient,) = torch.autograd.grad(losses.mean(), per_token)
    assert torch.allclose(losses.mean(), expected, atol=1e-6)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize("centering", [None, 0.01])
def test_reward_loss_equals_trl(centering: float | None) -> None:
    from trl.trainer.reward_trainer import RewardTrainer

    scores = (4 * _random(B, seed=5) - 2).requires_grad_()
    trainer = _trainer(centering=centering, maybe_activation_offload_context=contextlib.nullcontext())
    expected = RewardTrainer.compute_loss(
        trainer,
        lambda **_: SimpleNamespace(logits=scores[:, None]),
        {"attention_mask": torch.ones(B, T)},
    )
    (expected_gradient,) = torch.autograd.grad(expected, scores)
    ours = bradley_terry(*scores.chunk(2), centering=centering or 0.0).mean()
    (gradient,) = torch.autograd.grad(ours, scores)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)
