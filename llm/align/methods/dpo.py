"""DPO: raise the odds of the chosen answer over the rejected one, measured against a frozen reference.

Equations   (1)-(3) in docs/align/methods/dpo.md; comments below carry the same numbers.
Source      Rafailov et al. 2023, arXiv 2305.18290, equation 7; label smoothing (cDPO): Mitchell 2023;
            nll_weight (RPO): Pang et al. 2024, arXiv 2404.19733, equation 1
Cost        train: one forward and backward of both answers; the reference costs one forward in advance
Differs     from the paper: AdamW instead of RMSprop
Shapes      P pairs
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from llm.align.methods.base import AlignData
from llm.align.pairs import PairParams
from llm.align.preference import PreferenceMethod, SeqLogps
from llm.nn.model import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(PairParams):
    """beta: how dearly the policy pays for leaving the reference. label_smoothing: share of labels believed
    to be swapped. nll_weight: weight of the chosen answer's own negative log-likelihood per token."""

    beta: float
    label_smoothing: float = 0.0
    nll_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta ({self.beta}) must be positive")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing ({self.label_smoothing}) must be at least 0 and below 0.5")
        if self.nll_weight < 0:
            raise ValueError(f"nll_weight ({self.nll_weight}) must not be negative")


class DPO(PreferenceMethod):
    """Direct preference optimization."""

    needs_ref = True

    def __init__(self, config: Config, policy: Decoder, data: AlignData) -> None:
        super().__init__(config, policy, data)
        self.config = config

    def loss(self, policy: SeqLogps, ref: SeqLogps | None) -> Tensor:
        assert ref is not None
        return dpo_loss(policy, ref, self.config)

    def margins(self, policy: SeqLogps, ref: SeqLogps) -> Tensor:
        return self.config.beta * log_odds(policy, ref)


def log_odds(policy: SeqLogps, ref: SeqLogps) -> Tensor:
    """h = (log-ratio of the chosen answer) - (log-ratio of the rejected one), [P] (1)."""
    return (policy.chosen_P - ref.chosen_P) - (policy.rejected_P - ref.rejected_P)  # (1)


def dpo_loss(policy: SeqLogps, ref: SeqLogps, config: Config) -> Tensor:
    """Loss of each pair, [P]: -log sigmoid(beta h) (2), smoothed, plus the likelihood term (3)."""
    scaled_P = config.beta * log_odds(policy, ref)
    e = config.label_smoothing
    loss_P = -(1 - e) * F.logsigmoid(scaled_P) - e * F.logsigmoid(-scaled_P)  # (2)
    if config.nll_weight:
        loss_P = loss_P - config.nll_weight * policy.chosen_P / policy.chosen_tokens_P  # (3)
    return loss_P


build = DPO
