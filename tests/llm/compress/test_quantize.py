"""The stage's work in llm/compress/quantize.py: order, reports, parameters and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

from llm.compress import quantize as stage
from llm.compress.quant import gptq_int4, rtn_int4, rtn_int8
from llm.compress.quant.base import QuantModule, empty_layers
from llm.compress.quantize import load_method, quantize, quantize_model
from llm.data.document import Document, write_documents
from llm.eval.perplexity import DocumentScore
from llm.nn.io import load_model, save_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import ParamsError, from_dict
from llm.registry import module
from llm.runtime import write_json
from llm.tokenizer.algorithms.base import train_tokenizer
from stages.quantize import Params
from tests.laws.mixer_cases import TINY

TEXT = "The little red hen found a grain of wheat and asked who would plant it. Not I, said the lazy cat. "
PARAMS = """
seed: 1
quantize:
  methods:
    - rtn_int8
    - gptq_int4
  calibration_rows: 3
  n_documents: 0
  seq_len: 16
  stride: 8
  rtn_int8:
    group_size: 0
  gptq_int4:
    group_size: 16
    damping: 0.01
    act_order: true
    block_size: 128
    clip_steps: 0
"""


def tiny_model(vocab=64):
    torch.manual_seed(0)
    config = {
        "d_model": 16,
        "n_layers": 2,
        "max_len": 64,
        "tied_head": False,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1},
        "ffn": {"kind": "swiglu", "d_ff": 32},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.3},
    }
    return Decoder(from_dict(ModelConfig, config, "tiny"), vocab)


@pytest.fixture
def world(tmp_path):
    """Folders of a toy: model, packed rows and raw validation text."""
    bpe = module("llm.tokenizer.algorithms", "bpe")
    settings = bpe.Config(vocab_size=300, min_frequency=1, special_tokens=())
    tokenizer = train_tokenizer(bpe.build(settings), [TEXT], tmp_path / "tokenizer", "toy")
    save_model(tmp_path / "model", tiny_model(300), stage="test", tokenizer=tmp_path / "tokenizer")
    packed = tmp_path / "packed"
    packed.mkdir()
    rows = np.random.default_rng(0).integers(4, 300, (6, 17))
    rows.astype("<u2").tofile(packed / "rows.bin")
    np.ones((6, 17), "<u2").tofile(packed / "segments.bin")
    np.ones((6, 17), "u1").tofile(packed / "mask.bin")
    meta = {"n_rows": 6, "seq_len": 16, "dtype": "u16", "vocab_size": 300, "set": "pretrain"}
    write_json(packed / "meta.json", {**meta, "tokenizer_hash": tokenizer.hash})
    documents = [
        Document(id=str(i), source="toy", kind=kind, licence="CC0", work=str(i), text=TEXT * (i + 1))
        for i, kind in enumerate(["tales", "tales", "chat"])
    ]
    write_documents(tmp_path / "raw" / "validation.jsonl", documents)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def run(world, method, out="out"):
    params, config = load_method(Params, method, world / "params.yaml")
    folders = (world / "model", world / "packed", world / "raw", world / out)
    return quantize(*folders, params=params.quantize, config=config, seed=1)


# ---------------------------------------------------------------- whole stage


@pytest.mark.parametrize("method", ["rtn_int8", "gptq_int4"])
def test_the_stage_writes_a_model_and_an_honest_report(world, method):
    metrics = run(world, method)
    stored = load_model(world / "out")
    bits = {m.bits for m in stored.blocks.modules() if isinstance(m, QuantModule)}
    assert bits == {8 if method == "rtn_int8" else 4}
    description = json.loads((world / "out" / "config.json").read_text())["quantization"]
    assert description["kind"] == method
    assert (world / "out" / "tokenizer" / "tokenizer.json").is_file()

    size = metrics["size"]
    assert size["bytes"] == (world / "out" / "model.safetensors").stat().st_size
    assert size["bytes_before"] == (world / "model" / "model.safetensors").stat().st_size
    # a block: 2304 weights; 128 rows with a 16-bit scale each, or 144 groups of 16
    expected = {"rtn_int8": 8 + 16 * 128 / 2304, "gptq_int4": 4 + 16 * 144 / 2304}[method]
    assert size["bits_per_block_weight"] == pytest.approx(expected)
    assert size["n_weights_packed"] + size["n_weights_float"] == tiny_model(300).num_params()

    changes = metrics["bits_per_byte"]
    assert set(changes) == {"all", "chat", "tales"}
    assert (changes["all"]["n"], changes["tales"]["n"]) == (3, 2)
    before, after = changes["all"]["before"], changes["all"]["after"]
    assert before != after
    assert changes["all"]["change_percent"] == pytest.approx(100 * (after / before - 1), abs=1e-6)
    assert metrics["layers"]["n_layers"] == 8
    assert metrics["layers"]["max_error"] == max(e["output"] for e in metrics["layers"]["by_layer"].values())


def test_two_runs_write_equal_bytes(world):
    first, second = run(world, "gptq_int4", "a"), run(world, "gptq_int4", "b")
    assert first == second
    for name in ("model.safetensors", "config.json"):
        assert (world / "a" / name).read_bytes() == (world / "b" / name).read_bytes()


def test_a_quantised_model_is_not_quantised_again(world):
    run(world, "rtn_int8")
    (world / "model").rename(world / "float")
    (world / "out").rename(world / "model")
    with pytest.raises(ValueError, match=r"model: already quantised; name the float model"):
        run(world, "gptq_int4", "again")
    assert not (world / "again").exists()


def test_rows_of_another_tokenizer_are_refused(world):
    meta = json.loads((world / "packed" / "meta.json").read_text())
    write_json(world / "packed" / "meta.json", {**meta, "tokenizer_hash": "0" * 64})
    with pytest.raises(ValueError, match=r"packed: made with tokenizer 000000000000…"):
        run(world, "rtn_int8")
    assert not (world / "out").exists()


# ---------------------------------------------------------------- parameters


def test_only_the_chosen_method_is_read(world):
    path = world / "params.yaml"
    path.write_text(PARAMS.replace("group_size: 0", "group_sice: 0"))
    assert load_method(Params, "gptq_int4", path)[1] == gptq_int4.Config(group_size=16)
    with pytest.raises(
        ParamsError, match=r"quantize.rtn_int8.group_sice: unknown key; did you mean 'group_size'"
    ):
        load_method(Params, "rtn_int8", path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calibration_rows: 3", "calibration_row: 3", r"quantize.calibration_row: unknown key"),
        ("calibration_rows: 3", "calibration_rows: 0", r"calibration_rows \(0\) must be positive"),
        ("stride: 8", "stride: 17", r"stride \(17\) must be from 1 to seq_len \(16\)"),
        ("- gptq_int4", "- gptq_int3", r"methods: 'gptq_int3' is not one of gptq_int4"),
        ("seed: 1", "sead: 1", r"seed: missing key"),
    ],
)
def test_bad_parameters_are_named(world, old, new, message):
    (world / "params.yaml").write_text(PARAMS.replace(old, new, 1))
    with pytest.raises(ParamsError, match=message):
        load_method(Params, "rtn_int8", world / "params.yaml")


def test_unknown_and_missing_methods_are_named(world):
    with pytest.raises(ValueError, match=r"--method: 'awq' is not one of gptq_int4, rtn_int4, rtn_int8"):
        load_method(Params, "awq", world / "params.yaml")
    with pytest.raises(ValueError, match=r"quantize.rtn_int4: missing mapping"):
        load_method(Params, "rtn_int4", world / "params.yaml")


# ---------------------------------------------------------------- layer by layer


def rows(seed=0, padded=False):
    torch.manual_seed(seed)
    segments = torch.ones(4, 16, dtype=torch.long)
    if padded:
        segments[:, 10:] = 0
    return [(torch.randint(0, 64, (4, 16)), segments)]


def test_each_layer_sees_inputs_of_layers_already_quantised():
    model, seen = tiny_model(), {}

    class Spy(rtn_int4.RoundToNearestInt4):
        def observe(self, name, x_MI):
            seen[name] = x_MI

    quantize_model(model, Spy(rtn_int4.Config()), rows())
    caught = {}
    for name, part in model.named_modules():
        if isinstance(part, QuantModule) and name.startswith("blocks."):
            part.register_forward_pre_hook(lambda _m, args, name=name: caught.update({name: args[0]}))
    with torch.no_grad():
        model.hidden(*rows()[0])  # every layer quantised now: the inputs must be the same
    assert list(seen) == list(caught)
    for name, x in seen.items():
        assert torch.allclose(x, caught[name].flatten(0, 1), atol=1e-6), name


def test_padding_takes_no_part():
    tokens, segments = rows(padded=True)[0]
    counts = []

    class Spy(rtn_int8.RoundToNearestInt8):
        def observe(self, name, x_MI):
            counts.append(len(x_MI))

    quantize_model(tiny_model(), Spy(rtn_int8.Config()), [(tokens, segments)])
    assert counts == [40] * 8
    other = tokens.clone()
    other[:, 10:] = 5
    models = [tiny_model(), tiny_model()]
    for model, row in zip(models, (tokens, other), strict=True):
        quantize_model(model, gptq_int4.build(gptq_int4.Config()), [(row, segments)])
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_layer_errors_are_relative_output_errors():
    model = tiny_model()
    weight = model.blocks[0].mixer.w_qkv.weight.detach().clone()
    errors = quantize_model(model, rtn_int4.build(rtn_int4.Config()), rows())
    with torch.no_grad():
        x = model.blocks[0].mixer_norm(model.embedding(rows()[0][0])).flatten(0, 1)
    difference = weight - model.blocks[0].mixer.w_qkv.dequantize()
    assert errors[0].output == pytest.approx(
        float((x @ difference.T).norm() / (x @ weight.T).norm()), rel=1e-4
    )
    assert errors[0].weight == pytest.approx(float(difference.norm() / weight.norm()), rel=1e-5)


def test_gptq_has_smaller_output_errors_than_rounding_on_every_first_layer():
    found = {}
    for name, config in (("rtn", rtn_int4.Config()), ("gptq", gptq_int4.Config())):
        torch.manual_seed(1)
        batches = [(torch.randint(0, 64, (8, 48)), torch.ones(8, 48, dtype=torch.long)) for _ in range(4)]
        kind = rtn_int4 if name == "rtn" else gptq_int4
        found[name] = quantize_model(tiny_model(), kind.build(config), batches)
    for plain, fitted in list(zip(found["rtn"], found["gptq"], strict=True))[:4]:
        assert fitted.output < plain.output, plain.name


def test_changes_are_paired():
    before = [DocumentScore("a", 10.0, 5, 3), DocumentScore("a", 40.0, 10, 9), DocumentScore("b", 6.0, 4, 2)]
    after = [DocumentScore("a", 10.5, 5, 3), DocumentScore("a", 41.0, 10, 9), DocumentScore("b", 6.3, 4, 2)]
    report = stage.bpb_report(before, after)
    assert report["a"]["before"] == pytest.approx(50 / 15 / math.log(2))
    assert report["a"]["change_percent"] == pytest.approx(3.0)
    # differences .5 and 1 in proportion to bytes: no spread at all, although the documents differ widely
    assert report["a"]["change_percent_se"] == pytest.approx(0, abs=1e-9)
    assert report["b"]["change_percent"] == pytest.approx(5.0)
    assert report["b"]["change_percent_se"] is None


def any_model(**parts):
    torch.manual_seed(0)
    values = {
        "d_model": 24, "n_layers": 2, "max_len": 64, "tied_head": False, "ffn": {"kind": "swiglu"},
        "mixer": {"kind": "gqa", **TINY["gqa"][0]}, "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"},
        "init": {"kind": "gpt2"},
    }  # fmt: skip
    return Decoder(from_dict(ModelConfig, values | parts, "p"), 64)


MIXTURE = {"n_experts": 4, "n_active": 2, "d_ff": 16}


@pytest.mark.parametrize("kind", ["moe", "moe_deepseek"])
def test_a_router_stays_as_it_is(kind):
    """Nor does it count as a layer that saw no token; a model read back has it in the same place."""
    model = any_model(ffn={"kind": kind, **MIXTURE})
    routers = {name: p.clone() for name, p in model.named_parameters() if "w_router" in name}
    assert len(routers) == 2
    quantize_model(model, rtn_int8.build(rtn_int8.Config()), rows(padded=True))
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], router) for name, router in routers.items())
    empty = any_model(ffn={"kind": kind, **MIXTURE})
    empty_layers(empty, bits=8, group_size=rtn_int8.Config().group_size)
    assert {n: v.shape for n, v in empty.state_dict().items()} == {
        n: v.shape for n, v in model.state_dict().items()
    }


@pytest.mark.parametrize("kind", ["moe", "moe_deepseek"])
def test_every_expert_is_calibrated_on_the_tokens_that_chose_it(kind):
    model, seen = any_model(ffn={"kind": kind, **MIXTURE}), {}

    class Spy(rtn_int8.RoundToNearestInt8):
        def observe(self, name, x_MI):
            seen[name] = len(x_MI)

    errors = quantize_model(model, Spy(rtn_int8.Config()), rows())
    counts = [seen[f"blocks.0.ffn.experts.each.{e}.w_down"] for e in range(4)]
    assert sum(counts) == 2 * 64  # two choices of each of 64 tokens
    assert max(counts) < 64
    assert max(error.output for error in errors if "experts" in error.name) < 0.05


def test_an_expert_nobody_chose_is_rounded_by_its_weights_and_counted():
    model = any_model(ffn={"kind": "moe_deepseek", **MIXTURE})
    model.blocks[1].ffn.bias_E[3] = -100.0
    errors = quantize_model(model, gptq_int4.build(gptq_int4.Config()), rows())
    unseen = [error.name for error in errors if error.output is None]
    assert unseen == [f"blocks.1.ffn.experts.each.3.{name}" for name in ("w_gate_up", "w_down")]
    assert all(0 < error.weight < 0.2 for error in errors)
    report = stage.layer_report(errors)
    assert (report["n_unseen"], report["n_layers"]) == (2, len(errors))
    assert report["max_error"] == max(e.output for e in errors if e.output is not None) < 0.5


def test_another_layer_that_never_runs_is_refused():
    """Its weight is read some other way, so that its inputs cannot be caught; or it is dead."""
    model = any_model()
    model.blocks[1].ffn.w_forgotten = torch.nn.Linear(24, 24)
    with pytest.raises(ValueError, match=r"quantize: layer ffn.w_forgotten saw no calibration token"):
        quantize_model(model, rtn_int8.build(rtn_int8.Config()), rows())


@pytest.mark.parametrize("kind", [kind for kind in TINY if kind != "hybrid"])
def test_every_mixer_can_be_quantised(kind):
    """Some layers read blocks of tokens or chosen ones, not every token of a row once."""
    model = any_model(mixer={"kind": kind, **TINY[kind][0]})
    wanted = model(rows()[0][0])
    errors = quantize_model(model, rtn_int8.build(rtn_int8.Config()), rows(padded=True))
    assert max(error.output for error in errors) < 0.05
    assert (model(rows()[0][0]) - wanted).abs().max() < 0.1 * wanted.abs().max()
