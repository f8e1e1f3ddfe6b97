"""Every kind of every family of the model through the whole pipeline: pretrained, tuned, aligned, evaluated, quantized.

`make test-all` runs it; `make test` does not, because a kind takes most of a minute. A name without `test_` keeps it
out. One kind alone: `python -m pytest tests/pipeline/check_every_kind.py -k mamba2`.
"""

import shutil
import sys

import pytest
from conftest import Checkout
from test_run import AFTER_SFT, clone, metric

from llm import registry

SLOTS = {
    "mixer": "llm.nn.mixers",
    "ffn": "llm.nn.ffn",
    "norm": "llm.nn.norm",
    "position": "llm.nn.position",
    "init": "llm.nn.init",
    "residual": "llm.nn.residual",
}
KINDS = [(slot, kind) for slot, package in SLOTS.items() for kind in registry.kinds(package)]
# Kinds made of two: the second, beside the first of params.yaml. Two equal halves would be no test of them.
PARTS = {"hybrid": "mamba", "alternate": "geglu"}
PRESETS = ["gemma", "jamba", "kimi_linear", "minimax", "qwen3_next", "rwkv7"]
AFTER_PACK = {"pretrain", "sft", "eval@base"} | AFTER_SFT


def choose(checkout: Checkout, slot: str, kind: str) -> None:
    """`model.<slot>.kind` in params.yaml; the kind keeps its mapping there, or has its defaults."""
    checkout.set_param(f"model.{slot}.kind", kind)
    if kind in PARTS:
        checkout.set_param(f"model.{slot}.{kind}.pattern", "[first, second]")
        checkout.set_param(f"model.{slot}.{kind}.second.kind", PARTS[kind])


def whole_life(checkout: Checkout) -> None:
    """From packed rows to a quantized model that speaks."""
    output = checkout.run("dvc", "repro", timeout=1800)
    already_chosen = checkout.ran(output) == set()
    assert already_chosen or checkout.ran(output) == AFTER_PACK
    assert "up to date" in checkout.run("dvc", "status")
    with open(checkout.path / "plots" / "pretrain.csv", encoding="utf-8") as handle:
        header, *rows = [line.rstrip("\n").split(",") for line in handle]
    losses = [float(row[header.index("loss")]) for row in rows]
    assert losses[-1] < losses[0] - 1.0
    assert metric(checkout, "eval/aligned")["bpb"] != metric(checkout, "eval/base")["bpb"]
    for model in ("base", "aligned", "quantized/gptq_int4"):
        said = checkout.run(
            "llm", "generate", f"models/{model}", "--prompt", "Once upon", "--max-new-tokens", "8"
        )
        assert said.strip(), model


@pytest.mark.parametrize(("slot", "kind"), KINDS, ids=lambda value: value)
def test_every_kind_lives_a_whole_life(pipeline, tmp_path, slot, kind):
    copy = clone(pipeline, tmp_path)
    choose(copy, slot, kind)
    whole_life(copy)
    shutil.rmtree(copy.path)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_model_preset_lives_a_whole_life(pipeline, tmp_path, preset):
    copy = clone(pipeline, tmp_path)
    copy.run(sys.executable, "-m", "llm.cli", "preset", preset)
    whole_life(copy)
    shutil.rmtree(copy.path)


def test_no_preset_is_forgotten(pipeline):
    assert sorted(path.stem for path in (pipeline.path / "configs" / "models").glob("*.yaml")) == PRESETS
