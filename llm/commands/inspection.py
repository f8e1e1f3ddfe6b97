"""inspection: what a model folder holds and what running the model costs, counted, not estimated."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llm.commands.talk import model_folder
from llm.nn.io import load_model, read_config
from llm.nn.model import Decoder
from llm.tokenizer.base import load_tokenizer


def describe(name: str) -> str:
    """The facts of a model as aligned lines.

    Raises:
        ValueError: a missing, foreign or half-written model folder.
    """
    folder = model_folder(name)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = load_model(folder)
    context = min(256, model.config.max_len)
    per_token, constant = state_bytes(model)
    quantization = config.get("quantization")
    rows = [
        ("model", f"{folder}, written by the stage {config['stage']}"),
        ("parameters", f"{sum(parts(model).values()):,}"),
        *((f"  {part}", f"{count:,}") for part, count in parts(model).items()),
        (
            "FLOPs",
            f"{forward_flops(model, context) / context:,.0f} per token forward, rows of {context} tokens",
        ),
        ("state", f"{per_token:,.0f} bytes per token{f' and {constant:,.0f} constant' if constant else ''}"),
        ("context", f"{model.config.max_len} tokens"),
        ("on disk", f"{_size(folder):,} bytes, weights {_size(folder / 'model.safetensors'):,}"),
        ("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size} tokens, {tokenizer.hash[:12]}"),
        ("quantization", _quantization(quantization) if quantization else "none"),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label.ljust(width)}  {value}" for label, value in rows)


def parts(model: Decoder) -> dict[str, int]:
    """Trainable numbers by part of the model, counted on its unquantized form; a tied head counts as 0."""
    with torch.device("meta"):
        plain = Decoder(model.config, model.vocab_size)
    counts: dict[str, int] = {}
    for name, parameter in plain.named_parameters():
        part = _part(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts.setdefault("head", 0)
    return counts


def _part(name: str) -> str:
    """`mixer` for `blocks.3.mixer.w_o.weight`; every normalisation gain is one part."""
    if "norm" in name:
        return "norm"
    pieces = name.split(".")
    return pieces[2] if pieces[0] == "blocks" else pieces[0]


@torch.no_grad()
def forward_flops(model: nn.Module, n_tokens: int) -> int:
    """Floating-point operations of the matrix products of one forward pass over one row of `n_tokens`.

    Counted while it runs; a multiply-add is two. Attention is counted as computed: a kernel that
    also multiplies what the causal mask hides pays for it here.
    """
    tokens_BT = torch.zeros(1, n_tokens, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens_BT)
    return counter.get_total_flops()


def state_bytes(model: Decoder) -> tuple[float, float]:
    """Bytes of the decoding state of one row, all layers: (for each token, independent of the length)."""
    short, long = model.config.max_len // 2, model.config.max_len
    small, large = (sum(state.nbytes for state in model.init_state(1, n)) for n in (short, long))
    per_token = (large - small) / (long - short)
    return per_token, large - per_token * long


def _quantization(described: dict[str, Any]) -> str:
    """`gptq_int4, 4 bits, group_size 128, …`"""
    settings = [f"{name} {value}" for name, value in described["config"].items()]
    return ", ".join([described["kind"], f"{described['bits']} bits", *settings])


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])
