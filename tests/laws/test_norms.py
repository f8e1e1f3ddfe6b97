"""Laws of the family llm.nn.norm: every kind, in float64 at odd sizes. Kinds that declare `causal = False` must
leak, the others must not."""

import pytest
import torch

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict

D = 24
TINY = {
    "rmsnorm": [{}, {"eps": 0.1}],
    "rmsnorm_unit_offset": [{}, {"eps": 0.1}],
    "layernorm": [{}, {"eps": 0.1, "bias": False}],
    "batchnorm": [{}, {"eps": 0.1, "momentum": 0.5}],
}
CASES = [(kind, index) for kind in TINY for index in range(len(TINY[kind]))]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")


def build(case, *, moved=True):
    kind, index = case
    torch.manual_seed(0)
    config = from_dict(registry.module("llm.nn.norm", kind).Config, TINY[kind][index], "test")
    norm = registry.build(config, D).double()
    if moved:  # gains of 1 and biases of 0 would hide a lot
        for parameter in norm.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return norm


def rows(*shape):
    return torch.randn(*shape, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_every_kind_is_covered():
    assert sorted(TINY) == registry.kinds("llm.nn.norm")


@EVERY_CASE
def test_a_fresh_norm_gives_vectors_of_size_one(case):
    y = build(case, moved=False)(3 * rows(5, 40))
    assert y.square().mean().item() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("kind", TINY)
def test_indifferent_to_the_scale_of_its_input_but_for_eps(kind):
    x = rows(5, 7)
    norm, large_eps = build((kind, 0)), build((kind, 1))
    torch.testing.assert_close(norm(1000 * x), norm(x), atol=1e-4, rtol=0)
    assert (large_eps(1000 * x) - large_eps(x)).abs().max() > 1e-2


@EVERY_CASE
def test_it_leaks_exactly_where_it_says_so(case):
    """The future and other rows have no influence, or, where `causal` is False, they have."""
    norm = build(case)
    x = rows(2, 7).requires_grad_()
    norm(x)[0, 3].square().sum().backward()
    itself = x.grad[0, 3].abs().sum()
    x.grad[0, 3] = 0
    assert itself > 0
    assert bool(x.grad[0, 4:].abs().sum() > 0) is not norm.causal  # later tokens
    assert bool(x.grad[1].abs().sum() > 0) is not norm.causal  # other rows


@EVERY_CASE
def test_after_training_no_token_feels_another(case):
    norm = build(case)
    norm(rows(4, 9))
    norm.eval()
    x = rows(2, 7)
    whole = norm(x)
    torch.testing.assert_close(norm(x[1:, 2:3]), whole[1:, 2:3], atol=1e-12, rtol=0)
    torch.testing.assert_close(norm(x.flatten(0, 1)), whole.flatten(0, 1), atol=1e-12, rtol=0)


@EVERY_CASE
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(case, training):
    norm = build(case).train(training)
    x = rows(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, *norm.parameters()))


@EVERY_CASE
def test_views_and_any_number_of_dimensions(case):
    norm = build(case).eval()
    x = rows(4, 6, 3)
    torch.testing.assert_close(norm(x[:, :, 1:]), norm(x)[:, :, 1:], atol=1e-12, rtol=0)
    torch.testing.assert_close(norm(x.transpose(1, 2)), norm(x).transpose(1, 2), atol=1e-12, rtol=0)


@EVERY_CASE
@pytest.mark.parametrize("training", [True, False])
def test_bf16_is_close_and_statistics_are_wide(case, training):
    norm, x = build(case).train(training), rows(8, 40).float() + 3
    exact = norm.float()(x)
    for parameter in norm.parameters():
        parameter.data = parameter.data.bfloat16()
    rounded = norm(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 3e-2 * exact.abs().max()
    assert all(buffer.dtype == torch.float32 for buffer in norm.buffers())


@EVERY_CASE
def test_without_gradients_the_numbers_are_the_same(case):
    norm, x = build(case), rows(2, 5)
    with torch.no_grad():
        quiet = norm(x)
    torch.testing.assert_close(quiet, norm(x), atol=0, rtol=0)


@EVERY_CASE
def test_a_model_decodes_with_it_as_it_reads(case):
    kind, index = case
    data = {
        "d_model": D, "n_layers": 2, "max_len": 16, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1, "qk_norm": True},
        "ffn": {"kind": "swiglu", "d_ff": 30}, "norm": {"kind": kind, kind: TINY[kind][index]},
        "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(from_dict(ModelConfig, data, "test"), 50).double()
    tokens = torch.randint(50, (2, 9))
    model(tokens).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    states = model.eval().init_state(2)
    steps = [
        model.prefill(tokens[:, :4], states),
        *(model.decode(tokens[:, t : t + 1], states) for t in range(4, 9)),
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens), atol=1e-10, rtol=0)
