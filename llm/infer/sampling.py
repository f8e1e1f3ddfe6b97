"""sampling: next-token logits -> one token a row: penalty, temperature, top-k, top-p, min-p, then a draw.

Equations   (1)-(6) in docs/infer/sampling.md; comments below carry the same numbers.
Source      repetition penalty: Keskar et al. 2019, arXiv 1909.05858; top-k: Fan et al. 2018,
            arXiv 1805.04833; top-p: Holtzman et al. 2020, arXiv 1904.09751; min-p: Nguyen et al. 2024,
            arXiv 2407.01082
Cost        O(V) per row; O(V log V) with top-p where the NUCLEUS most likely tokens do not hold p
Differs     from the papers: nothing; the order of the operations is that of `transformers`
Shapes      B rows, V vocabulary
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = float("-inf")
NUCLEUS = 256  # tokens to sort first for top-p; a nucleus is rarely wider


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """temperature 0: greedy, the most likely token. top_k 0, top_p 1, min_p 0, repetition_penalty 1: off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature ({self.temperature}) must not be negative; 0 is greedy")
        if self.top_k < 0:
            raise ValueError(f"top_k ({self.top_k}) must not be negative; 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p ({self.top_p}) must be above 0 and at most 1; 1 keeps every token")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p ({self.min_p}) must be at least 0 and below 1; 0 keeps every token")
        if self.repetition_penalty <= 0:
            raise ValueError(
                f"repetition_penalty ({self.repetition_penalty}) must be positive; 1 switches it off"
            )

    @property
    def truncates(self) -> bool:
        """Whether any token can be ruled out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def sample(
    logits_BV: Tensor, params: SamplingParams, *, uniform_B: Tensor, seen_BV: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose one token a row -> (tokens_B, logps_B).

    uniform_B: one number in [0, 1) a row, float64; the whole randomness of the draw (unused when greedy).
    logps_B: log-probabilities before truncation, penalty and temperature applied (greedy: temperature 1).
    """
    scaled_BV = scale(logits_BV, params, seen_BV)
    logps_BV = torch.log_softmax(scaled_BV, -1)
    if params.temperature == 0:
        tokens_B = scaled_BV.argmax(-1)
    elif params.truncates:
        tokens_B = draw(torch.softmax(truncate(scaled_BV, params), -1), uniform_B)
    else:
        tokens_B = draw(logps_BV.exp(), uniform_B)
    return tokens_B, logps_BV.gather(-1, tokens_B[:, None]).squeeze(-1)


def transform(logits_BV: Tensor, params: SamplingParams, seen_BV: Tensor | None = None) -> Tensor:
    """Logits of the distribution that is sampled from, float32; -inf where a token is ruled out."""
    return truncate(scale(logits_BV, params, seen_BV), params)


def scale(logits_BV: Tensor, params: SamplingParams, seen_BV: Tensor | None = None) -> Tensor:
    """Penalise tokens already seen (1), divide by the temperature (2). seen_BV: True = row has it."""
    logits_BV = logits_BV.float()
    penalty = params.repetition_penalty
    if penalty != 1 and seen_BV is not None:
        worse_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = torch.where(seen_BV, worse_BV, logits_BV)  # (1)
    return logits_BV if params.temperature in (0, 1) else logits_BV / params.temperature  # (2)


def truncate(logits_BV: Tensor, params: SamplingParams) -> Tensor:
    """Rule out unlikely tokens: top-k (3), then top-p (4), then min-p (5); at least one token stays."""
    if 0 < params.top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(params.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, NEVER)  # (3)
    if params.top_p < 1:
        logits_BV = nucleus(logits_BV, params.top_p)
    if params.min_p > 0:
        probs_BV = torch.softmax(logits_BV, -1)
        floor_B1 = params.min_p * probs_BV.amax(-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(probs_BV < floor_B1, NEVER)  # (5)
    return logits_BV


def nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """Keep a token when the more likely ones together hold less than `top_p` (4)."""
    width = min(NUCLEUS, logits_BV.shape[-1])
    total_B1 = logits_BV.logsumexp(-1, keepdim=True)
    best_BK, order_BK = logits_BV.topk(width)
    probs_BK = (best_BK - total_B1).exp()
    if (probs_BK.sum(-1) < top_p).any():  # a wide nucleus somewhere: sort the whole vocabulary
        best_BK, order_BK = logits_BV.sort(descending=True)
        probs_BK = (best_BK - total_B1).exp()
    before_BK = probs_BK.cumsum(-1) - probs_BK
    keep_BK = before_BK < top_p
    keep_BK[:, 0] = True
    kept_BK = best_BK.masked_fill(~keep_BK, NEVER)
    return torch.full_like(logits_BV, NEVER).scatter(-1, order_BK, kept_BK)  # (4)


def draw(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Inverse transform sampling (6): the first token whose cumulative probability reaches 1 - u.

    1 - u lies in (0, 1], so a token of probability zero is never chosen and the last sum is always enough.
    """
    cumulative_BV = probs_BV.double().cumsum(-1)
    wanted_B1 = (1 - uniform_B[:, None]) * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, wanted_B1).squeeze(-1)  # (6)
