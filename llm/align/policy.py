"""policy: learning from one's own samples; what every policy-gradient method shares.

A step samples answers of the policy as it is now, rewards them by rule, and hands them out as batches that
already hold everything a loss needs but the policy's own log-probabilities. A subclass says what an
advantage is and what the loss of a token is.

Shapes      P prompts, G samples a prompt, B = P G sequences, T tokens, M scored tokens
"""

import copy
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.align import terms
from llm.align.methods.base import AlignData, Examples, Method
from llm.align.rollout import Rollout, load_rollouts, pad_logps, read_prompts, roll_out, save_rollouts
from llm.infer.sampling import SamplingParams
from llm.nn.model import Decoder
from llm.nn.objective import Loss, TokenBatch
from llm.runtime import derive_seed
from llm.sft.rows import scored_logps, shuffled, spread, stack, to_device
from llm.train.loop import LoopParams


@dataclass(frozen=True, kw_only=True)
class PolicyParams(LoopParams):
    """prompts_per_step, group_size: P and G. kinds: which prompts to train on. micro_rows: sequences of one
    forward pass. aggregation: see `terms.aggregate`. updates_per_rollout: optimizer steps on the same samples.
    eval_prompts: held-out prompts to measure."""

    prompts_per_step: int
    group_size: int
    kinds: tuple[str, ...]
    max_new_tokens: int
    micro_rows: int
    eval_prompts: int
    temperature: float = 1.0
    aggregation: terms.Aggregation = "sequence"
    updates_per_rollout: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("prompts_per_step", "max_new_tokens", "micro_rows", "updates_per_rollout", "eval_prompts")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        if self.group_size < 2:
            raise ValueError(
                f"group_size ({self.group_size}) must be at least 2: a group of one teaches nothing"
            )
        if self.temperature <= 0:
            raise ValueError(
                f"temperature ({self.temperature}) must be positive: greedy answers do not differ"
            )


@dataclass(frozen=True)
class RolloutBatch:
    """rows: prompts and answers, answers scored. old_BT, ref_BT: log-probabilities of the sampler and of the
    reference. total: what the loss is divided by. facts: sums over the sequences, to log."""

    rows: TokenBatch
    old_BT: Tensor
    ref_BT: Tensor
    advantage_B1: Tensor
    total: int
    facts: dict[str, float]

    @property
    def count(self) -> int:
        return self.total


class PolicyMethod(Method):
    """Alignment by a policy gradient; a subclass is an advantage and a loss."""

    params: PolicyParams
    unit = "answers"

    def __init__(self, config: PolicyParams, policy: Decoder, data: AlignData) -> None:
        self.params, self.policy, self.data = config, policy, data
        self.sampling = SamplingParams(temperature=config.temperature)
        self.prompts = read_prompts(data.prompts / "train", data.tokenizer, config.kinds)
        held_out = read_prompts(data.prompts / "validation", data.tokenizer, config.kinds)
        self.held_out = [held_out[i] for i in spread(len(held_out), config.eval_prompts)]
        self._references = {policy.embedding.weight.dtype: copy.deepcopy(policy).eval().requires_grad_(False)}
        self._rollouts: tuple[int, list[Rollout]] = (-1, [])

    @abstractmethod
    def advantages(self, rewards_PG: Tensor) -> Tensor:
        """How much better than expected each answer is, [P, G]."""

    @abstractmethod
    def loss(self, logp_BT: Tensor, old_BT: Tensor, ref_BT: Tensor, advantage_B1: Tensor) -> Tensor:
        """Loss of each token, [B, T]."""

    @abstractmethod
    def clipped(self, logp_BT: Tensor, old_BT: Tensor, advantage_B1: Tensor) -> Tensor:
        """True for tokens whose gradient the loss has cut off, [B, T]."""

    @property
    def reference(self) -> Decoder:
        """The policy as it was, in the precision it computes in now: equal weights then mean no distance."""
        dtype = self.policy.embedding.weight.dtype
        if dtype not in self._references:
            first = next(iter(self._references.values()))
            self._references[dtype] = copy.deepcopy(first).to(dtype)
        return self._references[dtype]

    # ---------------------------------------------------------------- what a step trains on

    def micro_batches(self, step: int) -> list[RolloutBatch]:
        G, size = self.params.group_size, self.params.micro_rows
        rollouts = self.rollouts(step - step % self.params.updates_per_rollout)
        rewards_PG = torch.tensor([rollout.reward for rollout in rollouts]).view(-1, G)
        advantages = self.advantages(rewards_PG).flatten()
        same = (rewards_PG.amax(1) == rewards_PG.amin(1)).repeat_interleave(G)
        order = sorted(range(len(rollouts)), key=lambda i: len(rollouts[i].prompt) + len(rollouts[i].tokens))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        return [self._batch([rollouts[i] for i in group], advantages[group], same[group]) for group in groups]

    def rollouts(self, step: int) -> list[Rollout]:
        """Answers sampled at `step`; kept on disk while several steps learn from them, for a resumed run."""
        if self._rollouts[0] == step:
            return self._rollouts[1]
        path = self.data.work / f"rollouts-{step}.json"
        if path.exists():
            rollouts = load_rollouts(path)
        else:
            chosen = shuffled(
                len(self.prompts), per_step=self.params.prompts_per_step, step=step, seed=self.data.seed
            )
            prompts = [self.prompts[i] for i in chosen for _ in range(self.params.group_size)]
            rollouts = roll_out(
                self.policy,
                self.data.tokenizer,
                prompts,
                max_new_tokens=self.params.max_new_tokens,
                sampling=self.sampling,
                seed=derive_seed(self.data.seed, "rollout", step),
            )
            if self.params.updates_per_rollout > 1:
                save_rollouts(path, rollouts)
        self._rollouts = (step, rollouts)
        return rollouts

    @torch.no_grad()
    def _batch(self, rollouts: list[Rollout], advantages: Tensor, same: Tensor) -> RolloutBatch:
        rows = self._stack(rollouts)
        facts = {
            "reward": sum(rollout.reward for rollout in rollouts),
            "length": float(sum(len(rollout.tokens) for rollout in rollouts)),
            "ended": float(sum(rollout.ended for rollout in rollouts)),
            "zero_advantage": float(same.sum()),
        }
        return RolloutBatch(
            rows=rows,
            old_BT=pad_logps(rollouts, rows.tokens_BT.shape[1]).to(self.data.device),
            ref_BT=policy_logps(self.reference, rows, self.params.temperature)[0],
            advantage_B1=advantages[:, None].to(self.data.device),
            total=terms.divisor(rows.mask_BT, self.params.aggregation, self.params.max_new_tokens),
            facts=facts,
        )

    def _stack(self, rollouts: list[Rollout]) -> TokenBatch:
        rows = stack([rollout.row() for rollout in rollouts], self.policy.config.max_len)
        return to_device(rows, self.data.device)

    # ---------------------------------------------------------------- the loss

    def objective(self, model: Decoder, batch: RolloutBatch) -> Loss:
        mask_BT = batch.rows.mask_BT
        logp_BT, entropy_M = policy_logps(model, batch.rows, self.params.temperature)
        loss_BT = self.loss(logp_BT, batch.old_BT, batch.ref_BT, batch.advantage_B1)
        total = terms.aggregate(loss_BT, mask_BT, self.params.aggregation)
        with torch.no_grad():
            facts = self._facts(logp_BT, entropy_M, batch)
        # the loop divides parts by the count: scaled so that they come out as means over the sequences
        scale = batch.count / len(mask_BT)
        return Loss(total, batch.count, {name: value * scale for name, value in facts.items()})

    def _facts(self, logp_BT: Tensor, entropy_M: Tensor, batch: RolloutBatch) -> dict[str, float]:
        """Sums over sequences of what was sampled, and of per-token means of KL, entropy and clipping."""
        mask_BT = batch.rows.mask_BT
        clipped_BT = self.clipped(logp_BT, batch.old_BT, batch.advantage_B1)
        kl_BT = terms.kl_k3(logp_BT, batch.ref_BT)
        entropy_BT = torch.zeros_like(logp_BT).masked_scatter(mask_BT, entropy_M)
        means = {"kl": kl_BT, "entropy": entropy_BT, "clip_frac": clipped_BT.float()}
        return {
            **batch.facts,
            **{name: float(terms.aggregate(value, mask_BT, "sequence")) for name, value in means.items()},
        }

    # ---------------------------------------------------------------- what is measured

    def examples(self, limit: int | None = None) -> Examples:
        """One answer to each held-out prompt, always with the same random numbers."""
        prompts = [self.held_out[i] for i in spread(len(self.held_out), limit or len(self.held_out))]
        rollouts = roll_out(
            self.policy,
            self.data.tokenizer,
            prompts,
            max_new_tokens=self.params.max_new_tokens,
            sampling=self.sampling,
            seed=derive_seed(self.data.seed, "held-out"),
        )
        kl, entropy = self._distances(rollouts)
        values = {
            "reward": [rollout.reward for rollout in rollouts],
            "length": [float(len(rollout.tokens)) for rollout in rollouts],
            "ended": [float(rollout.ended) for rollout in rollouts],
            "kl": kl,
            "entropy": entropy,
        }
        arrays = {name: torch.tensor(value, dtype=torch.float64).numpy() for name, value in values.items()}
        return Examples([prompt.kind for prompt in prompts], arrays)

    @torch.no_grad()
    def _distances(self, rollouts: list[Rollout]) -> tuple[list[float], list[float]]:
        """KL to the reference (k1, summed over the answer) and mean entropy of each rollout."""
        kl: list[float] = []
        entropy: list[float] = []
        for start in range(0, len(rollouts), self.params.micro_rows):
            some = rollouts[start : start + self.params.micro_rows]
            rows = self._stack(some)
            logp_BT, entropy_M = policy_logps(self.policy, rows, self.params.temperature)
            ref_BT = policy_logps(self.reference, rows, self.params.temperature)[0]
            difference_BT = terms.kl_k1(logp_BT, ref_BT).masked_fill(~rows.mask_BT, 0.0)
            entropy_BT = torch.zeros_like(logp_BT).masked_scatter(rows.mask_BT, entropy_M)
            kl += difference_BT.sum(1).tolist()
            entropy += (entropy_BT.sum(1) / rows.mask_BT.sum(1)).tolist()
        return kl, entropy


def policy_logps(model: Decoder, rows: TokenBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each scored token (0 elsewhere) [B, T], and the entropy there [M], no gradient."""
    logp_M, entropy_M = scored_logps(model, rows, temperature)
    return torch.zeros_like(rows.mask_BT, dtype=logp_M.dtype).masked_scatter(rows.mask_BT, logp_M), entropy_M
