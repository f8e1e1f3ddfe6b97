"""inspection: the numbers agree with a count by hand."""

from pathlib import Path

import pytest
import torch

from llm.commands import inspection
from llm.nn.io import load_model


def test_parts_by_hand(model_folder: Path) -> None:
    model = load_model(model_folder)
    assert inspection.parts(model) == {
        "embedding": 280 * 16,
        "norm": 2 * 2 * 16 + 16,
        "mixer": 2 * (16 * (4 + 2 * 2) * 4 + 16 * 16),
        "ffn": 2 * 3 * 16 * 24,
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
