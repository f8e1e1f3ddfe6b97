"""Policy-gradient terms against golden numbers (float64, from TRL 1.16 and verl 0.9.1, by hand-written inputs)."""

import pytest
import torch
from torch import Tensor

from llm.align import terms

OLD = [[-1.0, -2.0, -0.5, -1.5], [-0.7, -1.1, -2.3, -0.9]]
NEW = [[-0.4, -2.6, -0.45, -1.2], [-0.9, -1.0, -1.8, -0.9]]
REF = [[-1.1, -1.9, -0.6, -1.4], [-0.8, -1.0, -2.0, -0.9]]
MASK = [[1, 1, 1, 1], [1, 1, 1, 0]]


def _tensor(values: object, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


# value, then d loss / d logp row by row
GOLDEN = {
    ("sequence", 0.2, 0.2, 0.0): (
        0.09542682,
        [0, -0.068601, -0.131409, 0, 0.136455, 0.184195, 0.274787, 0],
    ),
    ("sequence", 0.2, 0.2, 0.04): (
        0.09828504,
        [0.002517, -0.073670, -0.130712, 0.000906, 0.135754, 0.184195, 0.275995, 0],
    ),
    ("token", 0.2, 0.28, 0.0): (
        -0.08392283,
        [0, -0.078402, -0.150182, 0, 0.116962, 0.157882, 0.235532, 0],
    ),
    ("constant", 0.2, 0.2, 0.0): (
        -0.05343247,
        [0, -0.068601, -0.131409, 0, 0.102341, 0.138146, 0.206090, 0],
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_loss_and_gradient_equal_golden_numbers(case: tuple[terms.Aggregation, float, float, float]) -> None:
    how, low, high, beta = case
    value, gradient = GOLDEN[case]
    logp, old, ref = _tensor(NEW).requires_grad_(), _tensor(OLD), _tensor(REF)
    mask = _tensor(MASK, torch.bool)
    per_token = terms.clipped_surrogate(terms.ratios(logp, old), _tensor([[1.0], [-1.0]]), low, high)
    per_token = per_token + beta * terms.kl_k3(logp, ref)
    loss = terms.aggregate(per_token, mask, how) / terms.divisor(mask, how, max_new_tokens=4)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(value, abs=1e-8)
    assert logp.grad is not None
    assert logp.grad.flatten().tolist() == pytest.approx(gradient, abs=1e-6)


def test_group_advantages_equal_golden_numbers() -> None:
    rewards = _tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    scaled = terms.group_advantages(rewards, scale=True)
    assert scaled[0].tolist() == pytest.approx([0.866024, -0.866024, -0.866024, 0.866024], abs=1e-6)
    assert scaled[1].tolist() == [0.0] * 4
    assert terms.group_advantages(rewards, scale=False)[0].tolist() == [0.5, -0.5, -0.5, 0.5]


def test_kl_estimators_estimate_the_kl() -> None:
    """Averaged over all outcomes with the policy's probabilities, k1 and k3 are exactly KL(policy, ref)."""
    policy = torch.log_softmax(_tensor([1.0, 0.3, -0.7, 2.0]), -1)
    ref = torch.log_softmax(_tensor([0.2, 0.9, -0.1, 1.0]), -1)
    exact = float((policy.exp() * (policy - ref)).sum())
    for estimate in (terms.kl_k1, terms.kl_k3):
        assert float((policy.exp() * estimate(policy, ref)).sum()) == pytest.approx(exact, abs=1e-12)
    assert (terms.kl_k3(policy, ref) >= 0).all()
    assert (terms.kl_k1(policy, ref) < 0).any()


def test_clip_is_reported_exactly_where_the_gradient_vanishes() -> None:
    logp, old = _tensor(NEW).requires_grad_(), _tensor(OLD)
    advantage = _tensor([[1.0], [-1.0]])
    ratio = terms.ratios(logp, old)
    terms.clipped_surrogate(ratio, advantage, 0.2, 0.2).sum().backward()
    assert logp.grad is not None
    assert torch.equal(logp.grad == 0, terms.is_clipped(ratio, advantage, 0.2, 0.2))


def test_far_away_log_ratios_stay_finite() -> None:
    far = _tensor([[-2000.0, 0.0]])
    assert torch.isfinite(terms.ratios(far, -far)).all()
    assert torch.isfinite(terms.ratios(-far, far)).all()
    assert torch.isfinite(terms.kl_k3(far, -far)).all()


def test_masked_infinities_do_not_poison_the_sum() -> None:
    values = _tensor([[1.0, float("inf")], [2.0, float("nan")]])
    mask = _tensor([[1, 0], [1, 0]], torch.bool)
    assert float(terms.aggregate(values, mask, "token")) == 3.0
    assert float(terms.aggregate(values, mask, "sequence")) == 3.0
