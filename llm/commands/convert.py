"""convert: a model folder of this project to one of `transformers`, and back.

theirs/config.json          `model_type` names the architecture
theirs/model.safetensors    or several files model-*.safetensors
"""

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from llm import registry
from llm.convert.base import Architecture, apply
from llm.nn import io
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, to_dict
from llm.runtime import output_dir, read_json, write_json
from llm.tokenizer.base import load_tokenizer

FAMILY = "llm.convert"


def convert(source: Path, target: Path, *, tokenizer: Path | None = None, to: str = "") -> str:
    """Convert `source`, whichever side it is of, into the new folder `target`; returns a line of facts.

    tokenizer: a tokenizer folder of this project, needed to read a foreign model, whose vocabulary it must
    have. to: the architecture to write; default: the one that can express the model.

    Raises:
        ValueError: an unreadable folder, an unknown architecture, a config without a form on the other side,
            tensors that do not match, an existing target.
    """
    if target.exists():
        raise ValueError(f"{target}: exists; name a new folder")
    if not (source / "config.json").is_file():
        raise ValueError(f"{source}/config.json: no such file; give a model folder")
    config = read_json(source / "config.json")
    if isinstance(config, dict) and config.get("format") == io.FORMAT:
        return export(source, target, to)
    if not isinstance(config, dict) or "model_type" not in config:
        raise ValueError(f"{source}/config.json: neither of this project nor of transformers (no model_type)")
    return adopt(source, target, config, tokenizer)


def architecture(model_type: str, where: str) -> Architecture:
    """Raises ValueError for a type that has no module in llm/convert."""
    if model_type not in registry.kinds(FAMILY):
        raise ValueError(f"{where}: '{model_type}' is not one of {', '.join(registry.kinds(FAMILY))}")
    built: Architecture = registry.module(FAMILY, model_type).build()
    return built


def export(source: Path, target: Path, to: str) -> str:
    """A model folder of this project -> theirs."""
    model, vocab_size = io.load_model(source), io.read_config(source)["vocab_size"]
    if "quantization" in io.read_config(source):
        raise ValueError(f"{source}: quantized; convert the model it was made from")
    section = to_dict(model.config)
    found = architecture(to, "--to") if to else _expressing(section, vocab_size)
    found.check(section)
    config = found.theirs(section, vocab_size)
    config |= {"model_type": found.model_type, "architectures": [found.causal_lm]}
    config, weights = found.sent(config, apply(found.rules(section), io.state_dict(model), to="theirs"))
    with output_dir(target) as folder:
        write_json(folder / "config.json", config)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        for name in ("tokenizer.json", "meta.json"):
            shutil.copy(source / "tokenizer" / name, folder / name)
    return f"{target}: {found.causal_lm}, {len(weights)} tensors, {_numbers(weights):,} numbers"


def adopt(source: Path, target: Path, config: dict[str, Any], tokenizer: Path | None) -> str:
    """Their model folder -> one of this project."""
    if tokenizer is None:
        raise ValueError(
            f"{source}: name the tokenizer folder that goes with it: --tokenizer models/tokenizer"
        )
    if load_tokenizer(tokenizer).vocab_size != config["vocab_size"]:
        size = load_tokenizer(tokenizer).vocab_size
        raise ValueError(
            f"{tokenizer}: {size} tokens, the model has {config['vocab_size']}; not its tokenizer"
        )
    found = architecture(config["model_type"], f"{source}/config.json")
    try:
        section = found.ours(config)
    except KeyError as error:
        raise ValueError(
            f"{source}/config.json: no {error}; {found.model_type} needs it, take the file of the model"
        ) from None
    model_config = from_dict(ModelConfig, section, f"{source}/config.json")
    given = found.received(config, read_weights(source))
    weights = apply(found.rules(to_dict(model_config)), given, to="ours")
    model = Decoder(model_config, config["vocab_size"])
    _load(model, weights, source)
    with output_dir(target) as folder:
        io.save_model(folder, model, stage="convert", tokenizer=tokenizer, extra={"source": found.causal_lm})
    return f"{target}: from {found.causal_lm}, {len(weights)} tensors, {model.num_params():,} parameters"


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a foreign folder, in float32 unless they are integers."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no *.safetensors file")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{file}: damaged or truncated ({error}); fetch it again") from None
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }


def _load(model: Decoder, weights: dict[str, torch.Tensor], source: Path) -> None:
    if model.config.tied_head:
        weights = weights | {"head.weight": weights["embedding.weight"]}
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{source}: {name} would be {found.get(name)}, config.json makes it {expected.get(name)}; "
            "the files do not belong together"
        )
    model.load_state_dict(weights)


def _expressing(section: dict[str, Any], vocab_size: int) -> Architecture:
    reasons = []
    for kind in registry.kinds(FAMILY):
        found = architecture(kind, "--to")
        try:
            found.check(section)
            found.theirs(section, vocab_size)
        except (ValueError, KeyError) as error:
            reasons.append(f"{kind}: {error}")
            continue
        return found
    kinds = json.dumps({name: section[name]["kind"] for name in ("mixer", "ffn", "norm", "position")})
    raise ValueError(
        f"convert: no architecture of transformers expresses {kinds}; --to NAME says why one does not"
    )


def _numbers(weights: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())
