"""Grouped execution of experts against a loop over tokens; counting."""

import pytest
import torch
import torch.nn.functional as F

from llm.nn.ffn import _experts
from llm.nn.ffn._experts import Experts, Load, count, expert_width, in_one_call, one_by_one

N, E, K, D, FF = 17, 5, 2, 8, 16


def choices(seed=0, n_experts=E):
    """Which experts each token uses, never the last one, and with which weights."""
    generator = torch.Generator().manual_seed(seed)
    experts = torch.stack([torch.randperm(n_experts - 1, generator=generator)[:K] for _ in range(N)])
    return experts, torch.rand(N, K, dtype=torch.float64, generator=generator)


def by_tokens(experts, x, chosen, weights):
    """y_n = sum over k of w_nk FFN_(e_nk)(x_n), one token and one expert at a time."""
    rows = []
    for n in range(len(x)):
        y = torch.zeros(D, dtype=x.dtype)
        for k in range(chosen.shape[1]):
            gate, up = (experts.w_gate_up[chosen[n, k]] @ x[n]).chunk(2)
            y = y + weights[n, k] * (experts.w_down[chosen[n, k]] @ (F.silu(gate) * up))
        rows.append(y)
    return torch.stack(rows)


def test_equals_a_loop_over_tokens_with_gradients():
    torch.manual_seed(0)
    experts = Experts(E, D, FF).double()
    chosen, weights = choices()
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    weights.requires_grad_()
    inputs = (x, weights, experts.w_gate_up, experts.w_down)
    ours, theirs = experts(x, chosen, weights), by_tokens(experts, x, chosen, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    out = torch.randn_like(ours)
    wanted = torch.autograd.grad((theirs * out).sum(), inputs)
    for mine, other in zip(torch.autograd.grad((ours * out).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)
    assert torch.equal(wanted[2][E - 1], torch.zeros_like(wanted[2][E - 1]))  # an expert without tokens


def test_taken_apart_they_are_the_same_experts():
    torch.manual_seed(0)
    experts, (chosen, weights) = Experts(E, D, FF).double(), choices()
    x, apart = torch.randn(N, D, dtype=torch.float64), experts.apart()
    assert torch.equal(apart(x, chosen, weights), experts(x, chosen, weights))
    assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in experts.parameters())
    assert len([m for m in apart.modules() if isinstance(m, torch.nn.Linear)]) == 2 * E
    assert apart.apart() is apart


@pytest.mark.parametrize("sizes", [[5, 0, 3, 9, 0], [17, 0, 0, 0, 0], [0, 0, 0, 0, 17]])
def test_one_call_equals_one_product_a_segment_with_gradients(sizes):
    torch.manual_seed(0)
    x, weight = torch.randn(N, D, requires_grad=True), torch.randn(E, FF, D, requires_grad=True)
    ends, out = torch.tensor(sizes).cumsum(0), torch.randn(N, FF)
    loop, grouped = one_by_one(x, weight, ends), in_one_call(x, weight, ends)
    torch.testing.assert_close(grouped, loop, atol=1e-5, rtol=0)
    wanted = torch.autograd.grad((loop * out).sum(), (x, weight))
    for mine, other in zip(torch.autograd.grad((grouped * out).sum(), (x, weight)), wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


def test_both_ways_are_the_layer(monkeypatch):
    torch.manual_seed(0)
    experts, (chosen, weights) = Experts(E, D, FF), choices()
    x = torch.randn(N, D)
    loop = experts(x, chosen, weights.float())
    monkeypatch.setattr(_experts, "per_segment", in_one_call)
    torch.testing.assert_close(experts(x, chosen, weights.float()), loop, atol=1e-5, rtol=0)


def test_only_chosen_experts_are_computed():
    from torch.utils.flop_counter import FlopCounterMode

    experts, (chosen, weights) = Experts(E, D, FF), choices()
    with FlopCounterMode(display=False) as counter:
        experts(torch.randn(N, D), chosen, weights.float())
    assert counter.get_total_flops() == N * K * 6 * D * FF


def test_load_counts_training_passes_only():
    load = Load(E)
    chosen, _ = choices()
    load.add(chosen)
    load.add(chosen)
    assert load.count_E.tolist() == (2 * torch.bincount(chosen.flatten(), minlength=E)).tolist()
    before = load.count_E.clone()
    with torch.no_grad():
        load.add(chosen)  # generation in the middle of training
    load.eval().add(chosen)
    assert torch.equal(load.count_E, before)
    load.forget()
    assert load.count_E.tolist() == [0] * E
    assert load.facts() == {}
    assert load.state_dict() == {}


def test_facts_of_a_load():
    load = Load(4)
    load.add(torch.tensor([[0], [0], [0], [1], [2], [2]]))
    assert load.facts() == {"expert_load_max": 2.0, "expert_idle_frac": 0.25}
    assert count(torch.tensor([[3, 1], [3, 0]]), 4).tolist() == [1, 1, 0, 2]


def test_default_width_keeps_the_active_parameters_of_a_dense_layer():
    assert [expert_width(256, n) for n in (1, 2, 4)] == [672, 336, 168]
    assert expert_width(8, 8) == 8
