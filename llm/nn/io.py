"""io: a model folder: config.json, model.safetensors and the tokenizer it was trained with.

    models/base/
      config.json          format, stage, vocab_size, model (every `model` key), tokenizer hash, extra facts
      model.safetensors    float32 weights, one tensor a name; a tied head is stored once
      tokenizer/           a copy of models/tokenizer

Files are written deterministically: equal weights give equal bytes.
"""

import shutil
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, to_dict
from llm.runtime import hash_files, read_json, write_json

FORMAT = "llm-from-scratch/1"


def save_model(
    folder: Path, model: Decoder, *, stage: str, tokenizer: Path, extra: dict[str, Any] | None = None
) -> None:
    """Write a model folder; call it inside `runtime.output_dir` so that it appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state_dict(model), folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
    config = {
        "format": FORMAT,
        "stage": stage,
        "vocab_size": model.vocab_size,
        "model": to_dict(model.config),
        "tokenizer_hash": hash_files(tokenizer),
        **(extra or {}),
    }
    write_json(folder / "config.json", config)


def state_dict(model: Decoder) -> dict[str, torch.Tensor]:
    """Weights to store: parameters float32, buffers as they are, contiguous; the tied head is left out."""
    tied = model.head.weight is model.embedding.weight
    parameters = {name for name, _ in model.named_parameters()}
    return {
        name: tensor.detach().to("cpu", torch.float32 if name in parameters else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "head.weight")
    }


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ValueError for a missing, foreign or half-written folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such model folder; run: dvc repro, or name one of models/*")
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise ValueError(
            f"{folder}: expected config.json and model.safetensors; not a model folder of this project"
        )
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") or config.get("model_type") if isinstance(config, dict) else config
        raise ValueError(
            f"{folder}/config.json: format is {found!r}, expected {FORMAT!r}; not made by this project"
        )
    return config


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
    """Build the model a folder describes and load its weights, in eval mode.

    Raises:
        ValueError: missing, foreign, truncated or mismatching files, naming the file and what to do.
    """
    config = read_config(folder)
    model = Decoder(
        from_dict(ModelConfig, config["model"], f"{folder}/config.json.model"), config["vocab_size"]
    )
    if "quantization" in config:  # the quantizer's module knows how its layers are stored
        kind = config["quantization"]["kind"]
        registry.module("llm.compress.quant", kind).prepare(model, config["quantization"])
    load_weights(model, folder / "model.safetensors")
    return (
        model.to(device=device, dtype=dtype).eval()
        if "quantization" not in config
        else model.to(device).eval()
    )


def load_weights(model: Decoder, path: Path) -> None:
    """Copy weights of a safetensors file into `model`; every tensor must match by name and shape."""
    try:
        weights = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: damaged or truncated ({error}); delete the folder and run dvc repro"
        ) from None
    if model.config.tied_head and "embedding.weight" in weights:
        weights["head.weight"] = weights["embedding.weight"]
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[0]
        raise ValueError(f"{path}: weights do not match config.json, first at {wrong[0]} {list(wrong[1])}")
    model.load_state_dict(weights)
