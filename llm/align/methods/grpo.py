"""GRPO: sample a group of answers to each prompt and learn from how each differs from its group.

Equations   (1)-(3) in docs/align/methods/grpo.md and (1)-(7) in docs/align/terms.md
Source      Shao et al. 2024 (DeepSeekMath), arXiv 2402.03300, section 4.1; scale_advantages: false with
            aggregation: constant is Dr. GRPO, Liu et al. 2025, arXiv 2503.20783
Cost        train: sampling of P G answers, one forward of the frozen reference, one forward and backward
            for each update; no value model
Differs     from the paper: rewards are rules, not a reward model; old log-probabilities are the sampler's
Shapes      P prompts, G samples a prompt, B = P G sequences, T tokens, M scored tokens
"""

from dataclasses import dataclass

from torch import Tensor

from llm.align import terms
from llm.align.methods.base import AlignData
from llm.align.policy import PolicyMethod, PolicyParams
from llm.nn.model import Decoder


@dataclass(frozen=True, kw_only=True)
class Config(PolicyParams):
    """kl_beta: weight of the distance to the reference. clip_low, clip_high: how far below and above 1 a
    ratio may go. scale_advantages: divide by the deviation of the group."""

    kl_beta: float
    clip_low: float = 0.2
    clip_high: float = 0.2
    scale_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.clip_low < 1:
            raise ValueError(f"clip_low ({self.clip_low}) must be at least 0 and below 1")
        for name in ("clip_high", "kl_beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must not be negative")


class GRPO(PolicyMethod):
    """Group relative policy optimization."""

    def __init__(self, config: Config, policy: Decoder, data: AlignData) -> None:
        super().__init__(config, policy, data)
        self.config = config

    def advantages(self, rewards_PG: Tensor) -> Tensor:
        return terms.group_advantages(rewards_PG, scale=self.config.scale_advantages)  # (1)

    def loss(self, logp_BT: Tensor, old_BT: Tensor, ref_BT: Tensor, advantage_B1: Tensor) -> Tensor:
        return grpo_loss(logp_BT, old_BT, ref_BT, advantage_B1, self.config)

    def clipped(self, logp_BT: Tensor, old_BT: Tensor, advantage_B1: Tensor) -> Tensor:
        ratio_BT = terms.ratios(logp_BT, old_BT)
        return terms.is_clipped(ratio_BT, advantage_B1, self.config.clip_low, self.config.clip_high)


def grpo_loss(
    logp_BT: Tensor, old_BT: Tensor, ref_BT: Tensor, advantage_B1: Tensor, config: Config
) -> Tensor:
    """Loss of each token, [B, T]: clipped surrogate (2) plus the KL to the reference (3)."""
    ratio_BT = terms.ratios(logp_BT, old_BT)
    loss_BT = terms.clipped_surrogate(ratio_BT, advantage_B1, config.clip_low, config.clip_high)  # (2)
    return loss_BT + config.kl_beta * terms.kl_k3(logp_BT, ref_BT) if config.kl_beta else loss_BT  # (3)


build = GRPO
