"""inspection: what a model folder holds and what running the model costs, counted, not estimated."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llm.commands.talk import model_folder
from llm.nn.io import load_model, read_config
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, load_params, read_yaml
from llm.tokenizer.base import load_tokenizer

CONTEXT = 256  # tokens of the row that is counted


def describe(name: str) -> str:
    """The facts of a model as aligned lines; of one to be trained, where `name` is a params file (`*.yaml`).

    Raises:
        ValueError: a missing, foreign or half-written model folder; a params file that does not load.
    """
    if name.endswith(".yaml"):
        return describe_params(Path(name))
    folder = model_folder(name)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = load_model(folder)
    quantization = config.get("quantization")
    rows = [
        ("model", f"{folder}, written by the stage {config['stage']}"),
        *facts(model),
        ("on disk", f"{_size(folder):,} bytes, weights {_size(folder / 'model.safetensors'):,}"),
        ("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size} tokens, {tokenizer.hash[:12]}"),
        ("quantization", _quantization(quantization) if quantization else "none"),
    ]
    return _aligned(rows) + "\n\n" + table(model)


@dataclass(frozen=True)
class _Tokenizer:
    vocab_size: int


@dataclass(frozen=True)
class _Params:
    model: ModelConfig


def describe_params(path: Path) -> str:
    """The same of the model a params file describes, with fresh weights. Raises ValueError for a wrong file."""
    config = load_params(_Params, path).model
    vocab_size = from_dict(_Tokenizer, {"vocab_size": read_yaml(path)["tokenizer"]["vocab_size"]}, str(path))
    model = Decoder(config, vocab_size.vocab_size).eval()
    rows = [("model", f"as {path} describes it"), *facts(model)]
    return _aligned(rows) + "\n\n" + table(model)


def facts(model: Decoder) -> list[tuple[str, str]]:
    """What the whole model costs."""
    context = min(CONTEXT, model.config.max_len)
    per_token, constant = state_bytes(model)
    return [
        ("parameters", f"{sum(parts(model).values()):,}"),
        (
            "FLOPs",
            f"{forward_flops(model, context) / context:,.0f} per token forward, rows of {context} tokens",
        ),
        ("state", f"{per_token:,.0f} bytes per token{f' and {constant:,.0f} constant' if constant else ''}"),
        ("context", f"{model.config.max_len} tokens"),
    ]


def table(model: Decoder) -> str:
    """Parameters, FLOPs and decoding state by part, every column summing to the line of the whole model."""
    context = min(CONTEXT, model.config.max_len)
    numbers, flops, states = parts(model), flops_by_part(model, context), state_by_part(model)
    rows: list[tuple[str, ...]] = [
        ("part", "parameters", "FLOPs per token", "state per token", "state constant")
    ]
    for part in numbers:
        per_token, constant = states.get(part, (0.0, 0.0))
        cells = (numbers[part], flops.get(part, 0) / context, per_token, constant)
        rows.append((part, *(f"{cell:,.0f}" for cell in cells)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def _aligned(rows: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label.ljust(width)}  {value}" for label, value in rows)


def parts(model: Decoder) -> dict[str, int]:
    """Trainable numbers by part of the model, counted on its unquantized form; a tied head counts as 0."""
    with torch.device("meta"):
        plain = Decoder(model.config, model.vocab_size)
    counts: dict[str, int] = {}
    for name, parameter in plain.named_parameters():
        part = _part(plain, name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts.setdefault("head", 0)
    return counts


def _part(model: Decoder, name: str) -> str:
    """`mixer gqa` for `blocks.3.mixer.w_o.weight`; every normalisation gain is one part."""
    pieces = name.split(".")
    if pieces[0] != "blocks":
        return "norm" if pieces[0] == "final_norm" else pieces[0].removesuffix("_modules")
    if pieces[2] not in ("mixer", "ffn") or "norm" in pieces[3]:
        return "norm"
    return f"{pieces[2]} {_kind(getattr(model.layers[int(pieces[1])], pieces[2]))}"


def _kind(module: nn.Module) -> str:
    return type(module).__module__.rsplit(".", 1)[-1]


@torch.no_grad()
def forward_flops(model: nn.Module, n_tokens: int) -> int:
    """Floating-point operations of the matrix products of one forward pass over one row of `n_tokens`.

    Counted while it runs; a multiply-add is two. Attention is counted as computed: a kernel that
    also multiplies what the causal mask hides pays for it here.
    """
    return _count(model, n_tokens).get_total_flops()


def flops_by_part(model: Decoder, n_tokens: int) -> dict[str, int]:
    """The same by part: those of a mixer or an FFN with everything inside it, and those of the head."""
    counts = _count(model, n_tokens).get_flop_counts()
    found: dict[str, int] = {}
    for name, operations in counts.items():
        pieces = name.split(".")  # Decoder.blocks.3.mixer
        if pieces[-1] == "head" or (len(pieces) == 4 and pieces[3] in ("mixer", "ffn")):
            part = "head" if pieces[-1] == "head" else _part(model, ".".join([*pieces[1:], "-"]))
            found[part] = found.get(part, 0) + sum(operations.values())
    return found


@torch.no_grad()
def _count(model: nn.Module, n_tokens: int) -> FlopCounterMode:
    tokens_BT = torch.zeros(1, n_tokens, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens_BT)
    return counter


def state_bytes(model: Decoder) -> tuple[float, float]:
    """Bytes of the decoding state of one row, all layers: (for each token, independent of the length)."""
    sizes = state_by_part(model).values()
    return sum(per_token for per_token, _ in sizes), sum(constant for _, constant in sizes)


def state_by_part(model: Decoder) -> dict[str, tuple[float, float]]:
    """The same for the layers of each kind of mixer."""
    short, long = model.config.max_len // 2, model.config.max_len
    found: dict[str, tuple[float, float]] = {}
    states = zip(model.layers, model.init_state(1, short), model.init_state(1, long), strict=True)
    for block, small, large in states:
        per_token = (large.nbytes - small.nbytes) / (long - short)
        part = f"mixer {_kind(block.mixer)}"
        before = found.get(part, (0.0, 0.0))
        found[part] = (before[0] + per_token, before[1] + large.nbytes - per_token * long)
    return found


def _quantization(described: dict[str, Any]) -> str:
    """`gptq_int4, 4 bits, group_size 128, …`"""
    settings = [f"{name} {value}" for name, value in described["config"].items()]
    return ", ".join([described["kind"], f"{described['bits']} bits", *settings])


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])
