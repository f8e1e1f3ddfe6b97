"""What is special about llm/compress/quant/gptq_int4.py: it equals a slow reference written another way."""

import numpy as np
import pytest
import torch

from llm.compress.quant import rtn_int4
from llm.compress.quant.base import expand, unpack_int4
from llm.compress.quant.gptq_int4 import Config, GPTQInt4, gptq, inverse_factor

GOLDEN_CODES = [[-2, 0, -7, -7, -1, -4], [-7, 2, 0, 2, -7, -3]]
GOLDEN_SCALES = [0.1229248046875, 0.2208251953125, 0.2347412109375, 0.1505126953125]


def problem(out_features=6, width=21, n=90, seed=0):
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(width, width)) / np.sqrt(width) + 0.4 * np.eye(width)
    x = generator.normal(size=(n, width)) @ mix + 0.3
    return generator.normal(size=(out_features, width)), 2 * x.T @ x / n, x


def slow_gptq(W, H, group, damping, act_order):
    """Optimal brain surgeon as in the paper's eq. 2: a fresh inverse over the open columns at every step."""
    W, H = W.copy(), H + damping * np.diag(H).mean() * np.eye(len(H))
    scale_of = {}

    def scale(columns, source):
        half = (np.abs(source[:, columns]).max(1) / 7).astype(np.float16)
        return half.astype(np.float64)

    groups = [list(range(g, min(g + group, W.shape[1]))) for g in range(0, W.shape[1], group)]
    order = sorted(range(len(H)), key=lambda j: -H[j, j]) if act_order else list(range(len(H)))
    if act_order:
        scale_of = {j: scale(columns, W) for columns in groups for j in columns}
    codes = np.zeros_like(W)
    for step, j in enumerate(order):
        if not act_order and j % group == 0:
            columns = groups[j // group]
            scale_of |= dict.fromkeys(columns, scale(columns, W))
        codes[:, j] = np.clip(np.round(W[:, j] / scale_of[j]), -7, 7)
        left = order[step:]
        inverse = np.linalg.inv(H[np.ix_(left, left)])
        error = W[:, j] - codes[:, j] * scale_of[j]
        W[:, left] -= np.outer(error / inverse[0, 0], inverse[0])
    return codes, np.stack([scale_of[columns[0]] for columns in groups], axis=1)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [21, 7, 8])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_reference(seed, group, act_order):
    W, H, _ = problem(seed=seed)
    config = Config(act_order=act_order, block_size=5)
    codes, scales = gptq(torch.from_numpy(W), torch.from_numpy(H), group, config)
    slow_codes, slow_scales = slow_gptq(W, H, group, 0.01, act_order)
    assert np.array_equal(codes.numpy(), slow_codes)
    assert np.allclose(scales.numpy(), slow_scales, rtol=0, atol=0)


def test_golden_numbers():
    # made with slow_gptq above: W, H, _ = problem(2, 6, 30, seed=7), group 3, damping .01, no act-order
    W, H, _ = problem(2, 6, 30, seed=7)
    codes, scales = gptq(torch.from_numpy(W), torch.from_numpy(H), 3, Config(act_order=False))
    assert codes.tolist() == GOLDEN_CODES
    assert scales.flatten().tolist() == pytest.approx(GOLDEN_SCALES, abs=0)


@pytest.mark.parametrize("act_order", [False, True])
def test_the_block_size_changes_nothing(act_order):
    W, H, _ = problem(width=40)
    results = [
        gptq(torch.from_numpy(W), torch.from_numpy(H), 8, Config(act_order=act_order, block_size=size))
        for size in (1, 3, 8, 13, 40, 128)
    ]
    for codes, scales in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.equal(scales, results[0][1])


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("stats", [None, 3.5 * torch.eye(50, dtype=torch.float64)])
def test_uncorrelated_inputs_make_it_round_to_nearest_exactly(act_order, stats):
    torch.manual_seed(0)
    layer = torch.nn.Linear(50, 9, bias=False)
    fitted = GPTQInt4(Config(group_size=16, act_order=act_order)).quantize(layer, stats)
    plain = rtn_int4.build(rtn_int4.Config(group_size=16)).quantize(layer)
    assert torch.equal(fitted.codes, plain.codes)
    assert torch.equal(fitted.scales, plain.scales)


def test_the_weights_move_away_and_the_outputs_come_closer():
    W, H, x = problem(32, 64, 600, seed=1)
    layer = torch.nn.Linear(64, 32, bias=False)
    layer.weight.data = torch.from_numpy(W).float()
    fitted = GPTQInt4(Config()).quantize(layer, torch.from_numpy(H)).dequantize().double()
    plain = rtn_int4.build(rtn_int4.Config()).quantize(layer).dequantize().double()
    target, inputs = torch.from_numpy(W), torch.from_numpy(x)
    assert (target - fitted).norm() > (target - plain).norm()
    assert (inputs @ (target - fitted).T).norm() < 0.75 * (inputs @ (target - plain).T).norm()


def test_inputs_that_are_always_zero_get_zero_weights():
    W, H, _ = problem()
    H[4], H[:, 4] = 0, 0
    codes, _ = gptq(torch.from_numpy(W), torch.from_numpy(H), 21, Config())
    assert codes[:, 4].eq(0).all()
    assert codes[:, [0, 1, 2, 3, 5]].ne(0).any(0).all()


def test_stats_are_the_mean_over_all_calls_and_forgotten_afterwards():
    _, _, x = problem()
    method = GPTQInt4(Config())
    method.observe("a", torch.from_numpy(x[:30]))
    method.observe("a", torch.from_numpy(x[30:]))
    assert torch.allclose(method.stats("a"), torch.from_numpy(2 * x.T @ x / len(x)))
    assert method.stats("a") is None


def test_factor_is_upper_triangular_and_inverts_the_damped_hessian():
    _, H, _ = problem()
    U = inverse_factor(torch.from_numpy(H), 0.05)
    damped = H + 0.05 * np.diag(H).mean() * np.eye(len(H))
    assert torch.equal(U, U.triu())
    assert np.allclose((U.T @ U).numpy() @ damped, np.eye(len(H)), atol=1e-10)


def test_a_hessian_that_cannot_be_factored_says_what_to_raise():
    H = torch.full((5, 5), float("nan"), dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"not positive definite .*raise quantize.gptq_int4.damping \(now 0.01\)"
    ):
        gptq(torch.ones(2, 5, dtype=torch.float64), H, 5, Config())


def test_stored_layer_reproduces_codes_times_scales():
    W, H, _ = problem(width=30)
    layer = torch.nn.Linear(30, 6, bias=False)
    layer.weight.data = torch.from_numpy(W).float()
    small = GPTQInt4(Config(group_size=15)).quantize(layer, torch.from_numpy(H))
    codes = unpack_int4(small.codes, 30).float()
    assert torch.equal(small.dequantize(), codes * expand(small.scales.float(), 15, 30))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"damping": 0.0}, r"damping \(0.0\) must be positive"),
        ({"block_size": 0}, r"block_size \(0\) must be positive"),
        ({"clip_steps": 100}, r"clip_steps \(100\)"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)
