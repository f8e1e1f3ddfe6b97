"""preference: what every loss over pairs of a chosen and a rejected answer shares.

Each row of a pair becomes one number: the summed log-probability of its answer, the end token included, the
prompt excluded. The log-probabilities of the reference never change, so they are computed once, before
training.

Equations   (1) in docs/align/preference.md
Shapes      P pairs, B = 2P rows, T tokens
"""

import bisect
import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm.align.methods.base import AlignData, Examples, Method
from llm.align.pairs import Pair, PairParams, both_rows, micro_groups, read_pairs
from llm.nn.model import Decoder
from llm.nn.objective import Loss, TokenBatch
from llm.sft.rows import row_logps, sequence_logps, shuffled, spread, stack


@dataclass(frozen=True)
class SeqLogps:
    """Summed log-probabilities of the answers of P pairs, and how many tokens each sum holds."""

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor


@dataclass(frozen=True)
class PairBatch:
    """rows: 2P rows, the chosen ones first. ref: log-probabilities under the reference, if the loss needs it."""

    rows: TokenBatch
    ref: SeqLogps | None

    @property
    def count(self) -> int:
        return len(self.rows.tokens_BT) // 2


class PreferenceMethod(Method):
    """Alignment by a loss over pairs; a subclass is that loss.

    needs_ref: whether `loss` is given the reference's log-probabilities.
    """

    needs_ref: ClassVar[bool]
    unit = "pairs"

    params: PairParams

    def __init__(self, config: PairParams, policy: Decoder, data: AlignData) -> None:
        self.params, self.data, self.policy = config, data, policy
        self.train = read_pairs(data.preference / "train", data.tokenizer, config.max_tokens)
        self.held_out = read_pairs(data.preference / "validation", data.tokenizer, config.max_tokens)
        self._read = sorted({i for step in range(config.steps) for i in self._chosen(step)})
        pairs = [self.train[i] for i in self._read]
        # in the precision the policy will train in: equal weights then give equal numbers, and it is faster
        ref = copy.deepcopy(policy).bfloat16() if config.precision == "bf16" else policy
        self.train_ref = reference(ref, pairs, "ref train") if self.needs_ref else None
        self.held_out_ref = reference(policy, self.held_out, "ref validation")

    @abstractmethod
    def loss(self, policy: SeqLogps, ref: SeqLogps | None) -> Tensor:
        """Loss of each pair, [P]."""

    @abstractmethod
    def margins(self, policy: SeqLogps, ref: SeqLogps) -> Tensor:
        """How much more the policy than the reference prefers the chosen answer, in units of reward, [P]."""

    def micro_batches(self, step: int) -> list[PairBatch]:
        groups = micro_groups(self.train, self._chosen(step), self.params.micro_pairs)
        return [self._batch(group) for group in groups]

    def _chosen(self, step: int) -> list[int]:
        """Numbers of the training pairs a step reads."""
        return shuffled(len(self.train), per_step=self.params.batch_pairs, step=step, seed=self.data.seed)

    def _batch(self, indices: list[int]) -> PairBatch:
        rows = stack(both_rows([self.train[i] for i in indices]), self.policy.config.max_len)
        if self.train_ref is None:
            return PairBatch(rows, None)
        places = [bisect.bisect_left(self._read, index) for index in indices]
        return PairBatch(rows, take(self.train_ref, places))

    def objective(self, model: Decoder, batch: PairBatch) -> Loss:
        policy = pair_logps(model, batch.rows)
        total = self.loss(policy, batch.ref).sum()
        parts = {"chosen_logp": float(policy.chosen_P.detach().sum())}
        parts["rejected_logp"] = float(policy.rejected_P.detach().sum())
        if batch.ref is not None:
            margins_P = self.margins(policy, batch.ref).detach()
            parts["margin"] = float(margins_P.sum())
            parts["accuracy"] = float(wins(margins_P).sum())
        return Loss(total, batch.count, parts)

    def examples(self, limit: int | None = None) -> Examples:
        """Held-out pairs: reward margin and accuracy, and the same of the plain log-probabilities."""
        chosen = spread(len(self.held_out), limit or len(self.held_out))
        pairs = [self.held_out[i] for i in chosen]
        policy = reference(self.policy, pairs, "held-out pairs")
        return self._examples(pairs, policy, take(self.held_out_ref, chosen))

    def before(self) -> Examples:
        return self._examples(self.held_out, self.held_out_ref, self.held_out_ref)

    def _examples(self, pairs: list[Pair], policy: SeqLogps, ref: SeqLogps) -> Examples:
        margins_P = self.margins(policy, ref)
        raw_P = policy.chosen_P - policy.rejected_P
        values = {
            "margin": margins_P,
            "accuracy": wins(margins_P),
            "logp_margin": raw_P,
            "logp_accuracy": wins(raw_P),
            "chosen_logp": policy.chosen_P,
            "rejected_logp": policy.rejected_P,
        }
        arrays = {name: value.double().cpu().numpy() for name, value in values.items()}
        return Examples([pair.kind for pair in pairs], arrays)


def pair_logps(model: Decoder, rows: TokenBatch) -> SeqLogps:
    """Summed log-probabilities of the answers (1), both halves from one forward pass."""
    return split_pairs(sequence_logps(model, rows), rows.mask_BT.sum(1))


def split_pairs(logps_B: Tensor, tokens_B: Tensor) -> SeqLogps:
    """Chosen rows first, rejected rows second -> the four columns of P pairs."""
    P = len(logps_B) // 2
    return SeqLogps(logps_B[:P], logps_B[P:], tokens_B[:P], tokens_B[P:])


def reference(model: Decoder, pairs: Sequence[Pair], label: str) -> SeqLogps:
    """Log-probabilities of many pairs under a model that is not trained here; no gradient."""
    rows = both_rows(pairs)
    logps = row_logps(model, rows, label=label)
    tokens_B = torch.tensor([int(row.mask.sum()) for row in rows])
    device = model.embedding.weight.device
    return split_pairs(torch.from_numpy(logps).float().to(device), tokens_B.to(device))


def take(logps: SeqLogps, indices: list[int]) -> SeqLogps:
    """The given pairs."""
    chosen, rejected = logps.chosen_P[indices], logps.rejected_P[indices]
    return SeqLogps(chosen, rejected, logps.chosen_tokens_P[indices], logps.rejected_tokens_P[indices])


def wins(margins_P: Tensor) -> Tensor:
    """1 where the chosen answer leads, 0 where it trails, one half for a tie."""
    return (margins_P.sign() + 1) / 2
