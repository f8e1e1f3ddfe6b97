"""Every preset loads strictly for every stage, the alternatives it holds in reserve included."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llm import registry
from llm.commands import preset
from llm.compress.quantize import load_method
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, load_params, read_yaml

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "configs" / "models").glob("*.yaml"))
STAGES = [name for path in sorted((ROOT / "stages").glob("*.py")) if (name := path.stem) != "__init__"]
SWITCHES = {"align": ("align",), "download": ("download", "source")}  # stage -> where its nested `kind` is


def load(stage: str, path: Path) -> Any:
    """The parameters of a stage, as its script loads them; None for a stage that has none."""
    cls = getattr(importlib.import_module(f"stages.{stage}"), "Params", None)
    if stage == "quantize":
        return [load_method(cls, method, path) for method in read_yaml(path)["quantize"]["methods"]]
    return cls and load_params(cls, path)


def test_the_presets_are_those_the_readme_names() -> None:
    assert [path.stem for path in PRESETS] == ["bilingual", "cpu", "gpu", "tiny"]


def test_params_yaml_is_the_cpu_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "configs" / "cpu.yaml").read_bytes()


def test_bilingual_is_cpu_with_poems_and_a_vocabulary_for_them() -> None:
    cpu, bilingual = (read_yaml(ROOT / "configs" / f"{name}.yaml") for name in ("cpu", "bilingual"))
    cpu["download"]["source"]["registry"]["kinds"].append("poetry")
    cpu["filter"]["quality"]["by_kind"] = {"poetry": {"min_mean_word": 1.0, "min_stop_words": 0}}
    cpu["tokenizer"]["vocab_size"] = 8192
    cpu["reward"]["max_tokens"] = cpu["align"]["dpo"]["max_tokens"] = (
        512  # its held-out tales have longer passages
    )
    assert bilingual == cpu


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_loads_every_preset(preset: Path, stage: str) -> None:
    params = load(stage, preset)
    assert params is not None or stage in ("encode", "report")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("below", ["tiny", "cpu"])
def test_every_model_lies_over_a_preset_reads_and_decodes(below: str, name: str, tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    preset.apply(below, configs=ROOT / "configs", target=target)
    lines = preset.apply(name, configs=ROOT / "configs", target=target)
    assert any("model.mixer.kind: gqa -> hybrid" in line for line in lines)
    data = read_yaml(target)
    model = Decoder(from_dict(ModelConfig, data["model"], name), 64).eval()
    assert len({type(block.mixer) for block in model.layers}) == 2 or below == "tiny"
    tokens = torch.randint(64, (1, 9))
    states = model.init_state(1, 16)
    with torch.no_grad():
        whole = model(tokens)
        parts = [
            model.prefill(tokens[:, :5], states),
            *(model.decode(tokens[:, t : t + 1], states) for t in range(5, 9)),
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-3)
    load("pretrain", target)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", SWITCHES)
def test_what_is_held_in_reserve_loads_too(preset: Path, stage: str, tmp_path: Path) -> None:
    data = read_yaml(preset)
    section = data
    for key in SWITCHES[stage]:
        section = section[key]
    kinds = [key for key in section if key != "kind"]
    assert section["kind"] in kinds
    for kind in kinds:
        section["kind"] = kind
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
        load(stage, tmp_path / "params.yaml")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_settings_of_quantizers_that_are_not_run_load_too(preset: Path) -> None:
    cls = importlib.import_module("stages.quantize").Params
    kinds = [key for key in read_yaml(preset)["quantize"] if key in registry.kinds("llm.compress.quant")]
    assert kinds
    for kind in kinds:
        load_method(cls, kind, preset)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_written_in_block_style(preset: Path) -> None:
    """`dvc exp run -S` rewrites flow style: a preset written so would change all over at the first experiment."""
    flows = [
        event
        for event in yaml.parse(preset.read_text(encoding="utf-8"))
        if isinstance(event, yaml.CollectionStartEvent) and event.flow_style
    ]
    lines = [preset.read_text(encoding="utf-8").splitlines()[event.start_mark.line] for event in flows]
    assert [
        line for line in lines if not line.endswith((": {}", ": []"))
    ] == []  # empty ones have no block form
