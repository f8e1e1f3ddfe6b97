"""inspection: the numbers agree with a count by hand."""

from pathlib import Path

import pytest
import torch
import yaml

from llm import registry
from llm.commands import inspection
from llm.nn.io import load_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, read_yaml


def test_parts_by_hand(model_folder: Path) -> None:
    model = load_model(model_folder)
    assert inspection.parts(model) == {
        "embedding": 280 * 16,
        "norm": 2 * 2 * 16 + 16,
        "mixer gqa": 2 * (16 * (4 + 2 * 2) * 4 + 16 * 16),
        "ffn swiglu": 2 * 3 * 16 * 24,
        "head": 0,
    }
    assert sum(inspection.parts(model).values()) == model.num_params()


def test_flops_by_hand(model_folder: Path) -> None:
    """Two operations for each weight and token, and two T x T products of width 16 in each layer."""
    model = load_model(model_folder)
    T = 8
    weights = 280 * 16 + 2 * (16 * 32 + 16 * 16) + 2 * 3 * 16 * 24
    attention = 2 * 2 * T * T * 16 * 2
    assert inspection.forward_flops(model, T) == 2 * weights * T + attention


def test_state_grows_by_keys_and_values(model_folder: Path) -> None:
    per_token, constant = inspection.state_bytes(load_model(model_folder))
    assert per_token == 2 * 2 * 2 * 4 * 4  # layers, keys and values, heads, d_head, float32
    assert constant == 0


def test_columns_of_the_parts_sum_to_the_whole(model_folder: Path) -> None:
    model = load_model(model_folder)
    flops = inspection.flops_by_part(model, 8)
    assert sum(flops.values()) == inspection.forward_flops(model, 8)
    assert flops["head"] == 2 * 280 * 16 * 8
    assert flops["ffn swiglu"] == 2 * 2 * 3 * 16 * 24 * 8
    assert inspection.state_by_part(model) == {"mixer gqa": inspection.state_bytes(model)}
    first, *rest = [line.split() for line in inspection.table(model).splitlines()]
    assert first[0] == "part"
    assert sum(int(line[-4].replace(",", "")) for line in rest) == model.num_params()


KINDS = [kind for kind in registry.kinds("llm.nn.mixers") if kind not in ("gqa", "hybrid")]


@pytest.mark.parametrize("kind", KINDS)
def test_any_config_against_the_built_module(kind: str, tmp_path: Path) -> None:
    """A hybrid of gqa and any other kind, from a params file: each part counted by itself."""
    params = read_yaml(Path("configs/tiny.yaml"))
    hybrid = params["model"]["mixer"]["hybrid"]
    hybrid["first"], hybrid["pattern"] = {"kind": kind}, ["first", "second"]
    params["model"]["mixer"]["kind"] = "hybrid"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    text = inspection.describe(str(tmp_path / "params.yaml"))
    rows = {
        line.split("  ")[0]: line.replace(",", "").split()[-4:] for line in text.split("\n\n")[1].splitlines()
    }
    config = from_dict(ModelConfig, params["model"], "test")
    model = Decoder(config, params["tokenizer"]["vocab_size"])
    own = model.layers[0].mixer
    inside = sum(p.numel() for name, p in own.named_parameters() if "norm" not in name.split(".")[0])
    assert int(rows[f"mixer {kind}"][0]) == inside
    assert sum(int(row[0]) for label, row in rows.items() if label != "part") == model.num_params()
    small, large = (
        own.init_state(1, n, device=torch.device("cpu"), dtype=torch.float32).nbytes for n in (128, 256)
    )
    assert float(rows[f"mixer {kind}"][2]) == pytest.approx((large - small) / 128, abs=0.5)
    assert float(rows[f"mixer {kind}"][1]) > 0


def test_a_wrong_params_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("model: 3\n")
    with pytest.raises(ValueError, match="model: expected a mapping"):
        inspection.describe(str(tmp_path / "params.yaml"))


def test_quantization_in_words() -> None:
    described = {"kind": "gptq_int4", "bits": 4, "config": {"group_size": 128}}
    assert inspection._quantization(described) == "gptq_int4, 4 bits, group_size 128"


def test_description(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder.parent.parent)
    text = inspection.describe("tiny")
    model = load_model(model_folder)
    assert f"{model.num_params():,}" in text
    assert "written by the stage sft" in text
    assert "bpe, 280 tokens" in text
    size = sum(file.stat().st_size for file in model_folder.rglob("*") if file.is_file())
    assert f"{size:,} bytes" in text
    assert torch.is_grad_enabled()
