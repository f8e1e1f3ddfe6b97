"""Sampling: the same masks as transformers, the promised frequencies, the limits of each knob."""

import pytest
import torch
from torch import Tensor

from llm.infer.sampling import SamplingParams, draw, nucleus, sample, scale, transform


def _logits(rows: int = 6, vocab: int = 700, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def _uniform(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.95, 0.9999])
@pytest.mark.parametrize("top_k", [0, 1, 40])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_transform_equals_transformers(top_p: float, top_k: int, min_p: float) -> None:
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = _logits()
    context = torch.randint(0, 700, (6, 30), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(6, 700, dtype=torch.bool).scatter(1, context, True)
    steps = [RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7)]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)]
    steps += [MinPLogitsWarper(min_p)] if min_p else []
    expected = logits.clone()
    for step in steps:
        expected = step(context, expected)

    params = SamplingParams(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=1.3)
    ours = transform(logits, params, seen)
    assert torch.equal(ours.isinf(), expected.isinf())
    kept = ~ours.isinf()
    assert torch.allclose(ours[kept], expected[kept])


def test_nucleus_is_the_same_with_and_without_the_short_sort() -> None:
    """Flat rows need more than the 256 tokens that are sorted first; peaked rows do not."""
    flat, peaked = _logits(seed=2) * 0.01, _logits(seed=3)
    for top_p in (0.5, 0.9):
        together = nucleus(torch.cat([flat, peaked]), top_p)
        assert torch.equal(together[6:].isinf(), nucleus(peaked, top_p).isinf())
        probs = torch.softmax(flat, -1).sort(descending=True).values
        needed = 1 + (probs.cumsum(-1) < top_p).sum(-1)
        assert torch.equal((~together[:6].isinf()).sum(-1), needed)


def test_frequencies_pass_a_chi_squared_test() -> None:
    draws, logits = 50_000, torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0]])
    params = SamplingParams(temperature=1.4)
    tokens, _ = sample(logits.expand(draws, -1), params, uniform_B=_uniform(draws))
    expected = torch.softmax(logits[0] / 1.4, -1) * draws
    chi2 = ((torch.bincount(tokens, minlength=5) - expected) ** 2 / expected).sum()
    assert chi2 < 18.47  # 99.9 % quantile, 4 degrees of freedom


def test_draw_never_chooses_an_impossible_token() -> None:
    probs = torch.tensor([[0.0, 0.4, 0.0, 0.6, 0.0]]).expand(4, -1)
    edges = torch.tensor([0.0, 1 - 2**-53, 0.600001, 0.599999], dtype=torch.float64)
    assert draw(probs, edges).tolist() == [3, 1, 1, 3]


def test_the_three_ways_to_be_greedy_agree() -> None:
    logits, uniform = _logits(), _uniform(6)
    best = logits.argmax(-1)
    for params in (
        SamplingParams(temperature=0),
        SamplingParams(top_k=1),
        SamplingParams(top_p=1e-9),
        SamplingParams(min_p=0.999999),
    ):
        assert torch.equal(sample(logits, params, uniform_B=uniform)[0], best)


def test_logps_are_those_before_truncation() -> None:
    logits = _logits()
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.8)
    tokens, logps = sample(logits, params, uniform_B=_uniform(6))
    expected = torch.log_softmax(logits / 0.5, -1).gather(1, tokens[:, None]).squeeze(1)
    assert torch.allclose(logps, expected, atol=1e-6)


def test_penalty_is_applied_once_to_what_was_seen() -> None:
    logits = torch.tensor([[4.0, -4.0, 4.0, -4.0]])
    seen = torch.tensor([[True, True, False, False]])
    scaled = scale(logits, SamplingParams(repetition_penalty=2.0), seen)
    assert scaled.tolist() == [[2.0, -8.0, 4.0, -4.0]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_p": 1.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_parameters_out_of_range_are_named(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**bad)  # type: ignore[arg-type]
