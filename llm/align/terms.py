"""terms: the parts a policy-gradient loss is made of, as pure functions of log-probabilities.

Equations   (1)-(7) in docs/align/terms.md; comments below carry the same numbers.
Source      clipped ratio: Schulman et al. 2017, arXiv 1707.06347; group advantages: Shao et al. 2024,
            arXiv 2402.03300; no std, constant divisor: Liu et al. 2025, arXiv 2503.20783; token mean:
            Yu et al. 2025, arXiv 2503.14476; KL estimators: Schulman 2020, "Approximating KL divergence"
Shapes      P prompts, G samples a prompt, B = P G sequences, T tokens; logp_BT: log-probability of each
            token; mask_BT: True for completion tokens, everything else must not matter
"""

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token", "constant"]

EPSILON = 1e-6  # keeps the division by the standard deviation finite
LOG_RATIO_LIMIT = 20.0  # exp of more would overflow long before it could teach anything


def group_advantages(rewards_PG: Tensor, *, scale: bool) -> Tensor:
    """Reward minus the mean of its group, with `scale` divided by the group's sample deviation (1)."""
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if not scale:
        return centred_PG
    return centred_PG / (rewards_PG.std(1, keepdim=True) + EPSILON)  # (1)


def ratios(logp_BT: Tensor, old_BT: Tensor) -> Tensor:
    """p_new / p_old of each token (2)."""
    return (logp_BT - old_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()  # (2)


def clipped_surrogate(ratio_BT: Tensor, advantage_BT: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A): no reward for moving further than the clip (3)."""
    clipped_BT = ratio_BT.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)  # (3)


def is_clipped(ratio_BT: Tensor, advantage_BT: Tensor, low: float, high: float) -> Tensor:
    """True where the clip decides, so that the token has no gradient."""
    above = (ratio_BT > 1 + high) & (advantage_BT > 0)
    below = (ratio_BT < 1 - low) & (advantage_BT < 0)
    return above | below


def kl_k1(logp_BT: Tensor, ref_BT: Tensor) -> Tensor:
    """log p - log p_ref: unbiased estimate of KL(policy, ref) on the policy's own samples, any sign (4)."""
    return logp_BT - ref_BT  # (4)


def kl_k3(logp_BT: Tensor, ref_BT: Tensor) -> Tensor:
    """e^d - d - 1 with d = log p_ref - log p: unbiased, never negative, little variance (5)."""
    difference_BT = (ref_BT - logp_BT).clamp(max=LOG_RATIO_LIMIT)
    return difference_BT.exp() - difference_BT - 1  # (5)


def aggregate(values_BT: Tensor, mask_BT: Tensor, how: Aggregation) -> Tensor:
    """Sum of per-token values; divided by `divisor` it is the mean that `how` names (6).

    sequence: every sequence weighs the same, its tokens share its weight. token: every token weighs the
    same. constant: as token, but the divisor does not depend on the lengths sampled.
    """
    kept_BT = values_BT.masked_fill(~mask_BT, 0.0)  # not a product: 0 x inf would be nan
    if how == "sequence":
        return (kept_BT.sum(1) / mask_BT.sum(1).clamp(min=1)).sum()  # (6)
    return kept_BT.sum()


def divisor(mask_BT: Tensor, how: Aggregation, max_new_tokens: int) -> int:
    """What `aggregate` is to be divided by, known before any loss is computed (7)."""
    if how == "sequence":
        return len(mask_BT)
    if how == "token":
        return int(mask_BT.sum())
    return len(mask_BT) * max_new_tokens  # (7)
