"""Laws of every quantizer in llm/compress/quant: what each `kind` must do, whatever it is called."""

import json

import pytest
import torch

from llm import registry
from llm.compress.quant import base
from llm.compress.quant.base import QuantLinear, QuantModule, TiedHead
from llm.compress.quantize import quantize_model
from llm.nn.io import load_model, save_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, to_dict

FAMILY = "llm.compress.quant"
KINDS = registry.kinds(FAMILY)


FORMS = ["untied", "tied", "mixture"]
FFNS = {
    "mixture": {"kind": "moe", "n_experts": 4, "n_active": 2, "d_ff": 37, "shared_d_ff": 16},
    "dense": {"kind": "swiglu", "d_ff": 37},  # odd and prime: padding of nibbles, a shorter last group
}


def tiny_model(form="untied"):
    torch.manual_seed(0)
    config = {
        "d_model": 24,
        "n_layers": 2,
        "max_len": 32,
        "tied_head": form == "tied",
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1, "qk_norm": True},
        "ffn": FFNS.get(form, FFNS["dense"]),
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.2},
    }
    return Decoder(from_dict(ModelConfig, config, "tiny"), 40).eval()


def quantizer(kind, **fields):
    return registry.build(registry.module(FAMILY, kind).Config(**fields))


def linear(out_features=20, in_features=37, seed=0):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(in_features, out_features, bias=False)
    return layer.requires_grad_(False)


def correlated_inputs(n=400, width=37, seed=1):
    torch.manual_seed(seed)
    return torch.randn(n, width) @ (torch.randn(width, width) / width**0.5 + 0.3 * torch.eye(width)) + 0.5


def quantized(kind, layer, x=None, **fields):
    method = quantizer(kind, **fields)
    if x is not None:
        method.observe("layer", x)
    return method.quantize(layer, method.stats("layer"))


def calibration(model, rows=4, length=16, seed=2):
    torch.manual_seed(seed)
    segments = torch.ones(rows, length, dtype=torch.long)
    segments[:, 9:] = 2
    segments[0, 12:] = 0
    return [(torch.randint(0, model.vocab_size, (rows, length)), segments)]


def quantized_model(kind, form="untied"):
    model = tiny_model(form)
    method = quantizer(kind, group_size=16)
    errors = quantize_model(model, method, calibration(model))
    return model, method, errors


def test_the_family_is_not_empty():
    assert {"rtn_int8", "rtn_int4", "gptq_int4"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_step_is_the_largest_change_of_plain_rounding(kind):
    # without inputs every method is round-to-nearest: |w - q| <= scale / 2 (float16 scales: a hair more)
    layer = linear()
    small = quantized(kind, layer)
    wide = base.expand(small.scales.float(), small.group, 37)
    assert ((layer.weight - small.dequantize()).abs() <= wide * 0.502).all()
    assert (layer.weight - small.dequantize()).abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_codes_use_the_range_and_never_leave_it(kind):
    small = quantized(kind, linear(), correlated_inputs())
    codes = small.codes if small.bits == 8 else base.unpack_int4(small.codes, 37)
    qmax = base.QMAX[small.bits]
    assert int(codes.abs().max()) == qmax
    assert int(codes.min()) >= -qmax


@pytest.mark.parametrize("kind", KINDS)
def test_quantising_again_changes_nothing(kind):
    layer = linear()
    first = quantized(kind, layer)
    layer.weight.data = first.dequantize()
    again = quantized(kind, layer)
    assert torch.equal(first.dequantize(), again.dequantize())


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_given_is_not_changed_and_its_bias_is_kept(kind):
    layer = torch.nn.Linear(37, 5).requires_grad_(False)
    weight, x = layer.weight.clone(), correlated_inputs(8)
    small = quantized(kind, layer, x)
    assert torch.equal(layer.weight, weight)
    assert torch.equal(small.bias, layer.bias)
    assert torch.allclose(small(x), x @ small.dequantize().T + layer.bias, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_groups_do_not_hurt_and_cost_the_scales_they_need(kind):
    layer = linear(in_features=64)
    coarse, fine = quantized(kind, layer, group_size=0), quantized(kind, layer, group_size=16)
    assert coarse.scales.shape == (20, 1)
    assert fine.scales.shape == (20, 4)
    error = [(layer.weight - small.dequantize()).norm() for small in (coarse, fine)]
    assert error[1] < error[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_stays_zero(kind):
    layer = linear()
    layer.weight[3] = 0
    small = quantized(kind, layer, correlated_inputs())
    assert torch.equal(small.dequantize()[3], torch.zeros(37))
    assert torch.isfinite(small.dequantize()).all()


def test_error_falls_with_bits():
    layer, x = linear(), correlated_inputs()
    errors = {}
    for kind in KINDS:
        small = quantized(kind, layer, x)
        errors.setdefault(small.bits, []).append(float((x @ (layer.weight - small.dequantize()).T).norm()))
    assert max(errors[8]) < min(errors[4]) / 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("gptq")])
@pytest.mark.parametrize("seed", range(5))
def test_gptq_beats_round_to_nearest_on_its_calibration_outputs(kind, seed):
    layer, x = linear(seed=seed), correlated_inputs(seed=seed + 10)
    plain = quantized(kind.replace("gptq", "rtn"), layer, x)
    fitted = quantized(kind, layer, x)
    error = [float((x @ (layer.weight - small.dequantize()).T).norm()) for small in (plain, fitted)]
    assert error[1] < 0.8 * error[0]


# ---------------------------------------------------------------- whole models


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_replaced_and_reported(kind, form):
    model, method, errors = quantized_model(kind, form)
    left = [n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Embedding))]
    exact = [f"blocks.{i}.ffn.{name}" for i in range(2) for name in ("w_router", "shared.w_open")]
    assert left == (exact if form == "mixture" else [])
    bits = {name: m.bits for name, m in model.named_modules() if isinstance(m, QuantModule)}
    in_blocks = {name: value for name, value in bits.items() if name.startswith("blocks.")}
    assert set(in_blocks.values()) == {method.bits}
    assert len(in_blocks) == (24 if form == "mixture" else 8)  # attention, shared expert, four experts
    assert bits["embedding"] == 8
    assert isinstance(model.head, TiedHead if form == "tied" else QuantLinear)
    first = "ffn.experts.each.0." if form == "mixture" else "ffn."
    assert [error.name for error in errors[:4]] == [
        f"blocks.0.{name}" for name in ("mixer.w_qkv", "mixer.w_o", f"{first}w_gate_up", f"{first}w_down")
    ]
    assert all(0 < error.output < 0.3 for error in errors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_prefill_and_decode_equal_forward(kind, form):
    model, _, _ = quantized_model(kind, form)
    tokens = torch.randint(0, 40, (3, 11), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = model(tokens)
        states = model.init_state(3, 11)
        parts = [model.prefill(tokens[:, :6], states)]
        parts += [model.decode(tokens[:, t : t + 1], states) for t in range(6, 11)]
    assert torch.allclose(torch.cat(parts, 1), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_float_model_with_the_dequantised_weights(kind):
    model, _, _ = quantized_model(kind)
    plain = tiny_model()
    weights = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(("gain",))}
    for name, module in model.named_modules():
        if isinstance(module, QuantModule):
            weights[f"{name}.weight"] = module.dequantize()
    plain.load_state_dict(weights)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(model(tokens), plain(tokens), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_gives_identical_logits_and_bytes(kind, form, tmp_path):
    model, method, _ = quantized_model(kind, form)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "meta.json").write_text("{}")
    config = {key: value for key, value in to_dict(method.config).items() if key != "kind"}
    extra = {"quantization": {"kind": kind, "bits": method.bits, "config": config}}
    for folder in ("a", "b"):
        save_model(tmp_path / folder, model, stage="quantize", tokenizer=tmp_path / "tokenizer", extra=extra)
    stored = load_model(tmp_path / "a")
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        assert torch.equal(stored(tokens), model(tokens))
    bytes_ = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("a", "b")]
    assert bytes_[0] == bytes_[1]
    packed = sum(m.stored_bytes for m in model.modules() if isinstance(m, QuantModule))
    header = 200 * len(stored.state_dict())
    assert packed + 4 * stored.num_params() < len(bytes_[0]) < packed + 4 * stored.num_params() + header


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_and_truncated_folders_are_refused_in_one_line(kind, tmp_path):
    model, method, _ = quantized_model(kind)
    (tmp_path / "tokenizer").mkdir()
    config = {key: value for key, value in to_dict(method.config).items() if key != "kind"}
    extra = {"quantization": {"kind": kind, "bits": method.bits, "config": config}}
    folder = tmp_path / "model"
    save_model(folder, model, stage="quantize", tokenizer=tmp_path / "tokenizer", extra=extra)
    weights, description = (
        (folder / "model.safetensors").read_bytes(),
        json.loads((folder / "config.json").read_text()),
    )

    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged or truncated"):
        load_model(folder)

    (folder / "model.safetensors").write_bytes(weights)
    description["quantization"]["config"]["group_size"] = 5
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"weights do not match config.json, first at .*scales"):
        load_model(folder)

    description["quantization"]["kind"] = "rtn_int3"
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"'rtn_int3' is not one of .*rtn_int8"):
        load_model(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_settings_are_named(kind):
    with pytest.raises(ValueError, match=r"group_size \(-1\)"):
        registry.module(FAMILY, kind).Config(group_size=-1)
