"""Softmax mixture of experts against transformers: outputs, gradients, auxiliary losses."""

import pytest
import torch

from llm.nn.ffn import moe, swiglu
from llm.nn.mixers.base import Site
from llm.nn.norm import rmsnorm

D, E, K, FF, B, T = 24, 8, 3, 14, 2, 9
SITE = Site(d_model=D, layer=0, n_layers=4, max_len=8, norm=rmsnorm.Config())


def make(**fields):
    torch.manual_seed(0)
    return moe.build(moe.Config(**{"n_experts": E, "n_active": K, "d_ff": FF, **fields}), SITE).double()


def rows():
    return torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)


def their_block(kind):
    import transformers
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextSparseMoeBlock

    shared = {"hidden_size": D, "num_experts_per_tok": K}
    routed = {"num_experts": E, "moe_intermediate_size": FF, **shared}
    config, block = {
        "mixtral": lambda: (
            transformers.MixtralConfig(num_local_experts=E, intermediate_size=FF, **shared),
            MixtralSparseMoeBlock,
        ),
        "olmoe": lambda: (
            transformers.OlmoeConfig(num_experts=E, intermediate_size=FF, norm_topk_prob=False, **shared),
            OlmoeSparseMoeBlock,
        ),
        "qwen3": lambda: (transformers.Qwen3MoeConfig(norm_topk_prob=True, **routed), Qwen3MoeSparseMoeBlock),
        "qwen2": lambda: (
            transformers.Qwen2MoeConfig(shared_expert_intermediate_size=10, norm_topk_prob=False, **routed),
            Qwen2MoeSparseMoeBlock,
        ),
        "qwen3_next": lambda: (
            transformers.Qwen3NextConfig(shared_expert_intermediate_size=10, **routed),
            Qwen3NextSparseMoeBlock,
        ),
    }[kind]()
    config._experts_implementation = "eager"  # the default takes no float64
    return block(config).double()


NAMES = {
    "w_router.weight": "gate.weight",
    "experts.w_gate_up": "experts.gate_up_proj",
    "experts.w_down": "experts.down_proj",
    "shared.w_down.weight": "shared_expert.down_proj.weight",
    "shared.w_open.weight": "shared_expert_gate.weight",
}


def to_theirs(tensors):
    """Our tensors under their names."""
    out = {NAMES[name]: tensor for name, tensor in tensors.items() if name in NAMES}
    if "shared.w_gate_up.weight" in tensors:
        gate, up = tensors["shared.w_gate_up.weight"].chunk(2)
        out |= {"shared_expert.gate_proj.weight": gate, "shared_expert.up_proj.weight": up}
    return out


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("mixtral", {}),
        ("qwen3", {}),
        ("olmoe", {"renormalise": False}),
        ("qwen2", {"renormalise": False, "shared_d_ff": 10}),
        ("qwen3_next", {"shared_d_ff": 10}),
    ],
)
def test_equals_transformers_with_gradients(kind, fields):
    ours, x = make(**fields), rows()
    with torch.no_grad():
        ours.w_router.weight.mul_(4)
    theirs = their_block(kind)
    theirs.load_state_dict(to_theirs({name: tensor.detach() for name, tensor in ours.named_parameters()}))
    out = torch.randn(B, T, D, dtype=torch.float64)
    y, expected = ours(x).y_BTD, theirs(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)
    [d_x] = torch.autograd.grad((expected * out).sum(), x, retain_graph=True)
    (expected * out).sum().backward()
    x.grad = None
    (y * out).sum().backward()
    torch.testing.assert_close(x.grad, d_x, atol=1e-6, rtol=0)
    grads = to_theirs({name: p.grad for name, p in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=1e-6, rtol=0, msg=name)


def test_balance_loss_is_that_of_transformers_over_k_with_gradients():
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    ours, x = make(aux_weight=1.0, z_weight=0.0), rows()
    logits = torch.nn.functional.linear(x, ours.w_router.weight).flatten(0, 1)
    expected = load_balancing_loss_func((logits,), E, K).double() / K  # theirs lets f sum to K
    loss = ours(x).aux_loss
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    [wanted] = torch.autograd.grad(expected, ours.w_router.weight)
    [grad] = torch.autograd.grad(loss, ours.w_router.weight)
    torch.testing.assert_close(grad, wanted, atol=1e-6, rtol=0)


def test_balance_loss_is_1_when_balanced_and_e_over_k_when_all_agree():
    layer = make(aux_weight=1.0, z_weight=0.0)
    probs = torch.full((E, E), 1 / E, dtype=torch.float64)
    chosen = torch.stack([torch.arange(i, i + K) % E for i in range(E)])
    assert layer.losses(probs.log(), probs, chosen).item() == pytest.approx(1.0)
    one_sided = torch.zeros(E, E, dtype=torch.float64)
    one_sided[:, :K] = 1 / K
    same = torch.arange(K).expand(E, K)
    assert layer.losses(torch.zeros(E, E), one_sided, same).item() == pytest.approx(E / K)


def test_z_loss_is_the_squared_size_of_the_logits():
    layer, x = make(aux_weight=0.0, z_weight=0.5), rows()
    logits = (x @ layer.w_router.weight.T).flatten(0, 1)
    expected = 0.5 * (logits.exp().sum(-1).log() ** 2).mean()
    torch.testing.assert_close(layer(x).aux_loss, expected, atol=1e-10, rtol=0)


def test_weights_before_and_after_the_choice_are_equal_only_when_renormalised():
    x = rows()
    layer = make()
    logits, _ = (x @ layer.w_router.weight.T).flatten(0, 1).topk(K)
    after = logits.softmax(-1)
    plain, renormalised = make(renormalise=False), make()
    captured = {}
    for name, m in (("plain", plain), ("renormalised", renormalised)):
        m.experts.register_forward_pre_hook(lambda _, args, name=name: captured.update({name: args[2]}))
        m(x)
    torch.testing.assert_close(captured["renormalised"], after, atol=1e-12, rtol=0)
    assert captured["plain"].sum(-1).max() < 0.9


def test_one_expert_is_a_dense_layer():
    x = rows()
    layer = make(n_experts=1, n_active=1)
    dense = swiglu.build(swiglu.Config(d_ff=FF), SITE).double()
    dense.load_state_dict(
        {"w_gate_up.weight": layer.experts.w_gate_up[0], "w_down.weight": layer.experts.w_down[0]}
    )
    torch.testing.assert_close(layer(x).y_BTD, dense(x).y_BTD, atol=1e-12, rtol=0)


def test_router_thinks_in_float32():
    layer, x = make().bfloat16(), rows().bfloat16()
    seen = []
    layer.load.add = seen.append
    layer(x)
    logits = x.float().flatten(0, 1) @ layer.w_router.weight.float().T
    assert torch.equal(seen[0].sort().values, logits.topk(K).indices.sort().values)
    assert layer(x).aux_loss.dtype == torch.float32


def test_facts_after_a_step_of_two_micro_batches():
    layer = make()
    for _ in range(2):
        layer(rows())
    assert layer.load.count_E.sum() == 2 * B * T * K
    facts = layer.after_step()
    assert facts["expert_load_max"] >= 1
    assert layer.load.count_E.sum() == 0
    layer(rows())
    layer.before_step()  # what ran outside of a step is forgotten
    assert layer.after_step() == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_experts": 0}, r"n_experts \(0\) must be positive"),
        ({"n_active": 9}, r"n_active \(9\) must be between 1 and n_experts \(8\)"),
        ({"n_active": 0}, r"n_active \(0\)"),
        ({"d_ff": 0}, r"d_ff \(0\) must be positive"),
        ({"aux_weight": -1.0}, r"aux_weight \(-1.0\) must be at least 0"),
        ({"z_weight": -1.0}, r"z_weight"),
        ({"shared_d_ff": -1}, r"shared_d_ff"),
    ],
)
def test_impossible_mixtures_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        moe.Config(**fields)
