"""DeepSeek's mixture of experts against transformers; the bias that balances without a gradient."""

import pytest
import torch
from safetensors.torch import save_file

from llm.nn import io
from llm.nn.ffn import moe_deepseek
from llm.nn.mixers.base import Site
from llm.nn.model import Decoder, ModelConfig
from llm.nn.norm import rmsnorm
from llm.params import from_dict

D, E, K, G, FF, B, T = 24, 8, 3, 4, 14, 2, 9
SITE = Site(d_model=D, layer=0, n_layers=4, max_len=8, norm=rmsnorm.Config())
V3 = {"n_groups": G, "n_active_groups": 2, "scaling": 2.5, "n_shared": 2}
V2 = {**V3, "scores": "softmax", "renormalise": False, "scaling": 16.0}


def make(**fields):
    torch.manual_seed(0)
    config = moe_deepseek.Config(**{"n_experts": E, "n_active": K, "d_ff": FF, **fields})
    layer = moe_deepseek.build(config, SITE).double()
    with torch.no_grad():
        layer.w_router.weight.mul_(4)
    return layer


def rows(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, D, dtype=torch.float64, generator=generator).requires_grad_()


def to_theirs(tensors):
    gate, up = tensors["shared.w_gate_up.weight"].chunk(2)
    return {
        "gate.weight": tensors["w_router.weight"],
        "experts.gate_up_proj": tensors["experts.w_gate_up"],
        "experts.down_proj": tensors["experts.w_down"],
        "shared_experts.gate_proj.weight": gate,
        "shared_experts.up_proj.weight": up,
        "shared_experts.down_proj.weight": tensors["shared.w_down.weight"],
    }


def their_block(version):
    import transformers
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    shared = {
        "hidden_size": D, "moe_intermediate_size": FF, "n_routed_experts": E, "num_experts_per_tok": K,
        "n_shared_experts": 2, "n_group": G, "topk_group": 2, "num_attention_heads": 4,
    }  # fmt: skip
    if version == 3:
        config = transformers.DeepseekV3Config(routed_scaling_factor=2.5, norm_topk_prob=True, **shared)
    else:
        config = transformers.DeepseekV2Config(
            routed_scaling_factor=16.0, topk_method="group_limited_greedy", norm_topk_prob=False, **shared
        )
    config._experts_implementation = "eager"  # the default takes no float64
    return (DeepseekV3MoE if version == 3 else DeepseekV2Moe)(config).double()


@pytest.mark.parametrize(("version", "fields"), [(3, V3), (2, V2)])
def test_equals_transformers_with_gradients(version, fields):
    ours, x, theirs = make(**fields), rows(), their_block(version)
    state = to_theirs({name: tensor.detach() for name, tensor in ours.named_parameters()})
    if version == 3:
        ours.bias_E.normal_(0, 0.3)  # some of the biased scores are negative
        state["gate.e_score_correction_bias"] = ours.bias_E
    theirs.load_state_dict(state)
    out = torch.randn(B, T, D, dtype=torch.float64)
    y, expected = ours(x).y_BTD, theirs(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)
    (expected * out).sum().backward()
    d_x, x.grad = x.grad, None
    (y * out).sum().backward()
    torch.testing.assert_close(x.grad, d_x, atol=1e-6, rtol=1e-6)
    grads = to_theirs({name: p.grad for name, p in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            grads[name], parameter.grad, atol=4e-6, rtol=1e-6, msg=lambda m, n=name: n + m
        )


def chosen_by(layer, scores):
    return layer.choose(torch.tensor([scores], dtype=torch.float64))[0].sort().values.tolist()


def test_groups_limit_the_choice():
    scores = [0.9, 0.1, 0.5, 0.5, 0.2, 0.3, 0.8, 0.1]  # groups of two: sums 1.0, 1.0, 0.5, 0.9
    assert chosen_by(make(), scores) == [0, 2, 6] or chosen_by(make(), scores) == [0, 3, 6]
    assert chosen_by(make(n_groups=4, n_active_groups=2), scores) == [0, 2, 3]  # 6 is in the third best group
    best = make(n_groups=4, n_active_groups=2, scores="softmax")  # the best of a group decides
    assert chosen_by(best, scores) == [0, 1, 6] or chosen_by(best, scores) == [0, 6, 7]


def test_a_group_that_is_not_chosen_stays_out_when_all_scores_are_negative():
    layer = make(n_groups=4, n_active_groups=2)
    layer.bias_E.fill_(-5.0)
    assert chosen_by(layer, [0.9, 0.1, 0.5, 0.5, 0.2, 0.3, 0.8, 0.1]) == [0, 2, 3]


def test_the_bias_moves_the_choice_and_not_the_weights():
    layer, x = make(n_shared=0), rows()
    seen = []
    layer.experts.register_forward_pre_hook(lambda _, args: seen.append(args[1:]))
    layer(x)
    layer.bias_E[5] = 10.0  # everybody takes expert 5 now
    layer(x)
    (before, _), (after, weights) = seen
    assert not (before == 5).any(1).all()
    assert (after == 5).any(1).all()
    scores = torch.sigmoid(x.flatten(0, 1) @ layer.w_router.weight.T).gather(1, after)
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True), atol=1e-10, rtol=0)


def test_the_bias_follows_the_load_of_the_whole_step():
    layer = make(bias_rate=0.5)
    with torch.no_grad():
        layer.bias_E[:K] = 5.0
    for seed in (1, 2):  # two micro-batches
        layer(rows(seed))
        assert layer.bias_E.tolist() == [5.0] * K + [0.0] * (E - K)  # not before the step
    load = layer.load.count_E
    assert load.tolist() == [2 * B * T] * K + [0] * (E - K)
    facts = layer.after_step()
    assert layer.bias_E.tolist() == [4.5] * K + [0.5] * (E - K)
    assert facts == {"expert_load_max": E / K, "expert_idle_frac": (E - K) / E}
    layer.after_step()  # nothing was counted: nothing moves
    assert layer.bias_E.tolist() == [4.5] * K + [0.5] * (E - K)


def test_evaluation_generation_and_frozen_layers_do_not_move_the_bias():
    layer, x = make(bias_rate=0.5), rows()
    layer.eval()(x)
    layer.train()
    with torch.no_grad():
        layer(x)
    assert layer.after_step() == {}
    assert layer.bias_E.abs().max() == 0
    layer.requires_grad_(False)
    layer(x)
    assert layer.after_step() != {}
    assert layer.bias_E.abs().max() == 0
    assert "bias_E" not in dict(layer.named_parameters())


def test_a_skewed_router_is_balanced_by_the_bias():
    torch.manual_seed(0)
    layer = make(bias_rate=0.01, n_shared=0)
    with torch.no_grad():
        layer.w_router.weight.copy_(0.3 * torch.randn(E, D))
    skew = torch.linspace(0.5, 1.5, D, dtype=torch.float64)
    violation = []
    for _ in range(400):
        layer(torch.randn(4, 64, D, dtype=torch.float64) * 0.3 + skew)
        violation.append(layer.after_step()["expert_load_max"] - 1)
    assert violation[0] > 1.0
    assert sum(violation[-20:]) / 20 < 0.3


def test_balance_loss_equals_its_equation_row_by_row():
    layer, x = make(balance_weight=0.7), rows()
    rows_of = []
    for b in range(B):
        s = torch.sigmoid(x[b] @ layer.w_router.weight.T)
        f = torch.zeros(E, dtype=torch.float64)
        for t in range(T):
            f[s[t].topk(K).indices] += E / (K * T)
        P = (s / s.sum(-1, keepdim=True)).mean(0)
        rows_of.append((f * P).sum())
    expected = 0.7 * torch.stack(rows_of).mean()
    loss = layer(x).aux_loss
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
    [grad] = torch.autograd.grad(loss, layer.w_router.weight)
    [wanted] = torch.autograd.grad(expected, layer.w_router.weight)
    torch.testing.assert_close(grad, wanted, atol=1e-10, rtol=0)


def test_the_bias_is_stored_and_read_bit_for_bit(tmp_path):
    config = from_dict(
        ModelConfig,
        {
            "d_model": D, "n_layers": 1, "max_len": 8, "tied_head": True,
            "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1}, "ffn": {"kind": "moe_deepseek"},
            "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"},
            "init": {"kind": "gpt2"},
        },
        "test",
    )  # fmt: skip
    model, other = Decoder(config, 20), Decoder(config, 20)
    model.blocks[0].ffn.bias_E.normal_()
    save_file(io.state_dict(model), tmp_path / "model.safetensors")
    io.load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(other.blocks[0].ffn.bias_E, model.blocks[0].ffn.bias_E)
    assert model.num_params() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_experts": 0}, r"n_experts \(0\) must be positive"),
        ({"n_active": 17}, r"n_active \(17\) must be between"),
        ({"d_ff": 0}, r"d_ff \(0\) must be positive"),
        ({"n_shared": -1}, r"n_shared \(-1\) must be at least 0"),
        ({"bias_rate": -0.1}, r"bias_rate"),
        ({"n_groups": 3}, r"n_groups \(3\) must divide n_experts \(16\)"),
        ({"n_groups": 4, "n_active_groups": 5}, r"n_active_groups \(5\) must be 1 to n_groups \(4\)"),
        ({"n_groups": 8, "n_active_groups": 1}, r"n_active \(3\) experts, but n_active_groups \(1\) hold 2"),
    ],
)
def test_impossible_mixtures_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        moe_deepseek.Config(**fields)
