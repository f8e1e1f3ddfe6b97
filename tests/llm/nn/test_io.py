"""A model folder is whole, deterministic, and recognised when it is not ours."""

import json

import pytest
import torch

from llm.nn.io import load_model, save_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.runtime import hash_files


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def saved(request, tmp_path):
    data = {
        "d_model": 16, "n_layers": 2, "max_len": 16, "tied_head": request.param,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1}, "ffn": {"kind": "swiglu", "d_ff": 24},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(from_dict(ModelConfig, data, "t"), 40)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    save_model(tmp_path / "m", model, stage="pretrain", tokenizer=tokenizer, extra={"step": 3})
    return model, tmp_path / "m", tokenizer


def test_round_trip_is_exact_and_bytes_are_equal(saved, tmp_path):
    model, folder, tokenizer = saved
    loaded = load_model(folder)
    tokens = torch.randint(0, 40, (2, 9))
    assert torch.equal(loaded(tokens), model(tokens))
    assert not loaded.training
    assert (loaded.head.weight is loaded.embedding.weight) == model.config.tied_head
    save_model(tmp_path / "again", loaded, stage="pretrain", tokenizer=tokenizer, extra={"step": 3})
    assert hash_files(tmp_path / "again") == hash_files(folder)


def test_missing_foreign_and_damaged_folders_are_named(saved):
    _, folder, _ = saved
    with pytest.raises(ValueError, match="no such model folder; run: dvc repro"):
        load_model(folder / "nowhere")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="model.safetensors: damaged or truncated .*dvc repro"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="expected config.json and model.safetensors"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 41}))
    with pytest.raises(ValueError, match=r"weights do not match config.json, first at .* \[4[01], 16\]"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="format is 'llama', expected 'llm-from-scratch/1'"):
        load_model(folder)
