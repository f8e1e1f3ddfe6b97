"""Laws of the family llm.nn.ffn: every kind must pass every law, in float64, at odd sizes."""

import pytest
import torch

from llm import registry
from llm.nn.ffn import base
from llm.nn.mixers.base import Site
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import from_dict

D, B, T = 24, 3, 7
CLOSE = {"atol": 1e-10, "rtol": 0}
V3 = {"n_experts": 8, "n_active": 3, "n_groups": 4, "n_active_groups": 2, "d_ff": 10, "scaling": 2.5}
TINY = {
    "swiglu": [{}, {"d_ff": 30}],
    "geglu": [{}, {"d_ff": 30, "gelu": "erf"}],
    "mlp": [{}, *({"d_ff": 30, "bias": True, "activation": a} for a in ("gelu", "silu", "relu"))],
    "relu2": [{}, {"d_ff": 30}],
    "none": [{}],
    "moe": [
        {},
        {"n_experts": 5, "n_active": 3, "d_ff": 10, "renormalise": False},
        {"n_experts": 4, "n_active": 1, "d_ff": 10, "shared_d_ff": 14},
        {"n_experts": 4, "n_active": 4, "d_ff": 10, "shared_d_ff": 14, "shared_gate": False},
    ],
    "moe_deepseek": [
        {},
        V3,
        {**V3, "scores": "softmax", "renormalise": False, "n_shared": 0},
        {"n_experts": 6, "n_active": 1, "n_groups": 6, "n_active_groups": 2, "d_ff": 10, "n_shared": 2},
    ],
    "alternate": [
        {"first": {"kind": "swiglu"}, "second": {"kind": "moe"}},
        {
            "first": {"kind": "mlp"},
            "second": {"kind": "moe_deepseek"},
            "leading_first": 1,
            "pattern": ["second"],
        },
    ],
}
CASES = [(kind, index) for kind in TINY for index in range(len(TINY[kind]))]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")


def build(case, *, layer=1, seed=0):
    kind, index = case
    torch.manual_seed(seed)
    norm = registry.module("llm.nn.norm", "rmsnorm").Config()
    config = from_dict(registry.module("llm.nn.ffn", kind).Config, TINY[kind][index], "test")
    ffn = registry.build(config, Site(d_model=D, layer=layer, n_layers=3, max_len=32, norm=norm)).double()
    for name, parameter in ffn.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter)
    for name, buffer in ffn.named_buffers():
        if name == "bias_E":
            torch.nn.init.normal_(buffer, std=0.2)
    return ffn


def rows(batch=B, length=T, seed=1):
    return torch.randn(batch, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_kind_is_covered():
    assert sorted(TINY) == registry.kinds("llm.nn.ffn")


@EVERY_CASE
def test_each_token_is_transformed_by_itself(case):
    ffn, x = build(case), rows()
    whole = ffn(x).y_BTD
    alone = torch.stack([torch.cat([ffn(x[b, t][None, None]).y_BTD[0] for t in range(T)]) for b in range(B)])
    torch.testing.assert_close(alone, whole, **CLOSE)
    torch.testing.assert_close(ffn(x[1:2, 2:5]).y_BTD, whole[1:2, 2:5], **CLOSE)
    changed = x.clone()
    changed[1, 3] = 1e6  # whatever stands in one place, padding for one, changes no other
    others = torch.ones(B, T, dtype=torch.bool)
    others[1, 3] = False
    torch.testing.assert_close(ffn(changed).y_BTD[others], whole[others], **CLOSE)


@EVERY_CASE
def test_gradients_of_a_token_reach_that_token_only(case):
    ffn, x = build(case), rows().requires_grad_()
    (ffn(x).y_BTD[1, 3].sum() + 0 * x.sum()).backward()
    touched = x.grad.abs().sum(-1).gt(0)
    assert touched.sum() == (0 if ffn.absent else 1)
    assert ffn.absent or touched[1, 3]


@EVERY_CASE
def test_gradients_are_those_of_finite_differences(case):
    ffn = build(case)
    x = rows(1, 4).requires_grad_()
    weights = tuple(p for p in ffn.parameters())

    def run(x, *_):
        out = ffn(x)
        return out.y_BTD + x, x.new_zeros(()) if out.aux_loss is None else 100 * out.aux_loss

    assert torch.autograd.gradcheck(run, (x, *weights), atol=1e-5, fast_mode=True)


@EVERY_CASE
def test_shape_and_dtype_are_kept_and_bf16_is_close(case):
    ffn = build(case)
    for module in ffn.modules():
        if hasattr(module, "w_router"):
            with torch.no_grad():
                module.w_router.weight.mul_(20)  # rounding must not change which expert is best
    x = rows().float()
    exact = ffn.float()(x).y_BTD
    rounded = ffn.bfloat16()(x.bfloat16()).y_BTD
    assert (exact.dtype, rounded.dtype, rounded.shape) == (torch.float32, torch.bfloat16, x.shape)
    error = (rounded.float() - exact).abs()
    assert error.max() < 2e-2 * exact.abs().max() + 1e-2


@EVERY_CASE
@pytest.mark.parametrize("layer", [0, 1])
def test_every_parameter_gets_a_gradient_and_losses_are_finite(case, layer):
    ffn = build(case, layer=layer)
    x = rows(1, 1).requires_grad_()  # one token: most experts get none, and zeros for a gradient
    out = ffn(x)
    aux = 0 if out.aux_loss is None else out.aux_loss
    (out.y_BTD.square().sum() + aux + 0 * x.sum()).backward()
    silent = [name for name, p in ffn.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    if out.aux_loss is not None:
        assert out.aux_loss.ndim == 0
        assert out.aux_loss.isfinite()
        assert out.aux_loss > 0
    assert ffn.eval()(x).aux_loss is None  # losses of training are no part of an evaluation


def gated(d_ff):
    return 3 * D * d_ff


CLAIMED = {  # the formula of the page, for the cases in order
    "swiglu": [gated(64), gated(30)],
    "geglu": [gated(64), gated(30)],
    "mlp": [2 * D * 96, *[2 * D * 30 + D + 30] * 3],
    "relu2": [2 * D * 96, 2 * D * 30],
    "none": [0],
    "moe": [
        8 * gated(32) + 8 * D,
        5 * gated(10) + 5 * D,
        4 * gated(10) + 4 * D + gated(14) + D,
        4 * gated(10) + 4 * D + gated(14),
    ],
    "moe_deepseek": [
        17 * gated(16) + 16 * D,
        9 * gated(10) + 8 * D,
        8 * gated(10) + 8 * D,
        8 * gated(10) + 6 * D,
    ],
    "alternate": [8 * gated(32) + 8 * D, 17 * gated(16) + 16 * D],
}


@EVERY_CASE
def test_number_of_parameters_is_what_the_page_claims(case):
    assert sum(p.numel() for p in build(case).parameters()) == CLAIMED[case[0]][case[1]]


@EVERY_CASE
def test_fresh_weights_give_finite_outputs_and_every_weight_is_initialised(case):
    kind, index = case
    data = {
        "d_model": D, "n_layers": 2, "max_len": 16, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1}, "ffn": {"kind": kind, kind: TINY[kind][index]},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(from_dict(ModelConfig, data, "test"), 50)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert 0.003 < parameter.std() < 0.03, name
    tokens = torch.randint(50, (2, 9))
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 8, dtype=torch.bool))
    next_token_loss(model, batch).sum.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    states = model.eval().init_state(2)
    steps = torch.cat([model.decode(tokens[:, t : t + 1], states) for t in range(8)], dim=1)
    torch.testing.assert_close(steps, model(tokens[:, :8]), atol=1e-5, rtol=0)


def test_facts_of_a_step_are_means_over_the_layers_that_report():
    class Reports(base.FFN):
        def __init__(self, facts):
            super().__init__()
            self.facts, self.began = facts, 0

        def before_step(self):
            self.began += 1

        def after_step(self):
            return self.facts

    ffns = [Reports({"a": 1.0}), Reports({}), Reports({"a": 3.0, "b": 5.0})]
    model = torch.nn.Sequential(torch.nn.Sequential(*ffns[:2]), ffns[2])
    assert base.after_step(model) == {"a": 2.0, "b": 5.0}
    base.before_step(model)
    assert [ffn.began for ffn in ffns] == [1, 1, 1]
