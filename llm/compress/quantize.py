"""quantize: a trained model, layer by layer, into packed integers, and what that costs.

Every linear layer of the blocks goes through the chosen quantizer, in the order the layers run, so that each
one is calibrated on inputs that come out of already quantised layers; embedding and head become int8 rows
first (llm/compress/quant/base.py). Nothing is left out: what stays float32 (norm gains) is counted.

Shapes      R calibration rows, T tokens, M real tokens of all rows, I input features, O output features
"""

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm import registry
from llm.compress.quant.base import Quantizer, QuantModule, is_layer, quantize_tables, replace, take_apart
from llm.data.document import require_documents
from llm.data.encoded import check_tokenizer
from llm.data.packed import PackedRows
from llm.eval.perplexity import DocumentScore, ScoredDocument, ratio, score_documents
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.io import load_model, read_config, save_model
from llm.nn.model import Decoder
from llm.params import from_dict, read_yaml, to_dict
from llm.runtime import derive_seed, device_name, output_dir, progress, record_facts
from llm.tokenizer.base import Tokenizer, load_tokenizer

T = TypeVar("T")
FAMILY = "llm.compress.quant"
_CHUNK = 8  # calibration rows that go through a block together


@dataclass(frozen=True, kw_only=True)
class QuantizeParams:
    """What all methods share; beside these keys the section holds one mapping for every method.

    methods: the kinds the pipeline runs. calibration_rows: packed training rows on which the layers are
    calibrated and their errors measured. n_documents: validation documents for bits per byte, evenly spaced;
    0 = all. seq_len, stride: the windows of llm/eval/perplexity.py.
    """

    methods: tuple[str, ...]
    calibration_rows: int
    n_documents: int
    seq_len: int
    stride: int

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in registry.kinds(FAMILY)]
        if unknown:
            raise ValueError(f"methods: {unknown[0]!r} is not one of {', '.join(registry.kinds(FAMILY))}")
        if self.calibration_rows < 1:
            raise ValueError(f"calibration_rows ({self.calibration_rows}) must be positive")
        if not 1 <= self.stride <= self.seq_len:
            raise ValueError(f"stride ({self.stride}) must be from 1 to seq_len ({self.seq_len})")


def load_method(cls: type[T], method: str, path: Path = Path("params.yaml")) -> tuple[T, Any]:
    """`load_params(cls)` and the `Config` of one method; the other methods' mappings are not looked into.

    Raises:
        ParamsError: problems in the sections of `cls` or in `quantize.<method>`. ValueError: unknown method.
    """
    kinds, data = registry.kinds(FAMILY), read_yaml(path)
    if method not in kinds:
        raise ValueError(f"--method: {method!r} is not one of {', '.join(kinds)}")
    section = data.get("quantize")
    if not isinstance(section, dict) or method not in section:
        raise ValueError(f"{path}.quantize.{method}: missing mapping; write the fields of {FAMILY}.{method}")
    config = from_dict(registry.module(FAMILY, method).Config, section[method], f"{path}.quantize.{method}")
    data["quantize"] = {key: value for key, value in section.items() if key not in kinds}
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return from_dict(cls, {name: data[name] for name in names if name in data}, str(path)), config


# ---------------------------------------------------------------- the stage


def quantize(
    model_folder: Path,
    packed_folder: Path,
    raw: Path,
    out: Path,
    *,
    params: QuantizeParams,
    config: Any,
    seed: int,
) -> dict[str, Any]:
    """Quantise the model in `model_folder`, write it to `out` and return the metrics."""
    if "quantization" in read_config(model_folder):
        raise ValueError(f"{model_folder}: already quantised; name the float model it was made from")
    tokenizer = load_tokenizer(model_folder / "tokenizer")
    packed = PackedRows.open(packed_folder)
    check_tokenizer(packed.meta, tokenizer.hash, packed_folder, model_folder / "tokenizer")
    documents = validation_documents(raw / "validation.jsonl", tokenizer, params.n_documents)
    model = load_model(model_folder, device=device_name())
    before = _score(model, documents, params, "before")
    record_facts(tokens_s_before=tokens_per_second(model, documents))
    quantizer: Quantizer = registry.build(config)
    small = copy.deepcopy(model)
    layers = quantize_model(small, quantizer, calibration_batches(packed, params.calibration_rows, seed))
    kind = registry.kind_of(config)
    with output_dir(out) as folder:
        description = {"kind": kind, "bits": quantizer.bits, "config": _fields(config)}
        save_model(
            folder,
            small,
            stage="quantize",
            tokenizer=model_folder / "tokenizer",
            extra={"quantization": description},
        )
        stored = load_model(folder, device=device_name())  # what is measured is what was written
        after = _score(stored, documents, params, "after")
        record_facts(tokens_s=tokens_per_second(stored, documents))
        sizes = size_report(model, stored, model_folder, folder)
    return {"size": sizes, "bits_per_byte": bpb_report(before, after), "layers": layer_report(layers)}


def _fields(config: Any) -> dict[str, Any]:
    return {key: value for key, value in to_dict(config).items() if key != "kind"}


def validation_documents(path: Path, tokenizer: Tokenizer, n_documents: int) -> list[ScoredDocument]:
    """[eot] text of up to `n_documents` evenly spaced documents (0 = all), for `score_documents`."""
    documents = require_documents(path, "bits per byte needs validation documents")
    if 0 < n_documents < len(documents):
        documents = [documents[i * len(documents) // n_documents] for i in range(n_documents)]
    ids = tokenizer.encode_batch([document.text for document in documents])
    return [
        ([tokenizer.eot_id, *tokens], len(document.text.encode()), document.kind)
        for tokens, document in zip(ids, documents, strict=True)
    ]


def calibration_batches(packed: PackedRows, n_rows: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(tokens_BT, segments_BT) of `n_rows` training rows, chosen by the seed."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "quantize", "calibration"))
    rows = torch.randperm(packed.n_rows, generator=generator)[:n_rows].sort().values
    batches = [packed.batch(part.numpy()) for part in rows.split(_CHUNK)]
    return [(batch.tokens_BT, batch.segments_BT) for batch in batches if batch.segments_BT is not None]


def _score(
    model: Decoder, documents: list[ScoredDocument], params: QuantizeParams, when: str
) -> list[DocumentScore]:
    label = f"quantize: bits per byte {when}"
    return score_documents(model, documents, seq_len=params.seq_len, stride=params.stride, label=label)


def tokens_per_second(
    model: Decoder, documents: list[ScoredDocument], n_rows: int = 8, n_tokens: int = 32
) -> float:
    """Greedy decoding speed of a small batch: a machine fact, never a metric."""
    prompts = [list(ids[:16]) for ids, _, _ in documents[:n_rows]]
    sampling, generator = SamplingParams(temperature=0.0), torch.Generator().manual_seed(0)
    for count in (2, n_tokens):  # the first, short call warms up and makes dequantised copies
        t0 = time.perf_counter()
        generate(model, prompts, max_new_tokens=count, sampling=sampling, stop_ids=set(), generator=generator)
    return len(prompts) * n_tokens / (time.perf_counter() - t0)


# ---------------------------------------------------------------- layer by layer


@dataclass(frozen=True)
class LayerError:
    """output: |X (W - Q)^T| / |X W^T|, Frobenius, X the calibration inputs, None without any; weight: |W - Q| / |W|."""

    name: str
    output: float | None
    weight: float


@dataclass
class _Rows:
    """Some calibration rows on their way through the blocks: the arguments of the next block."""

    x_BTD: Tensor
    rest: tuple[Any, ...]
    real_BT: Tensor


@torch.no_grad()
def quantize_model(
    model: Decoder, quantizer: Quantizer, batches: Sequence[tuple[Tensor, Tensor]]
) -> list[LayerError]:
    """Quantise `model` in place, first layer first, each on inputs from layers already quantised."""
    model.eval()
    take_apart(model)
    quantize_tables(model)
    rows = [_enter(model, tokens, segments) for tokens, segments in batches]
    errors = []
    for index, block in enumerate(progress(model.blocks, "quantize: blocks", total=len(model.blocks))):
        for name in _run_order(block, rows):
            full = f"blocks.{index}.{name}"
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            x_MI = _layer_inputs(block, linear, rows)
            if len(x_MI):
                quantizer.observe(full, x_MI)
            small = quantizer.quantize(linear, quantizer.stats(full))
            errors.append(_error(full, linear, small, x_MI))
            replace(model, full, small)
        for row in rows:
            row.x_BTD = block(row.x_BTD, *row.rest)[0]
    return errors


def _enter(model: Decoder, tokens_BT: Tensor, segments_BT: Tensor) -> _Rows:
    """The arguments with which the model calls its first block."""
    caught: list[tuple[Any, ...]] = []
    device = model.embedding.weight.device
    tokens_BT, segments_BT = tokens_BT.to(device), segments_BT.to(device)
    handle = model.blocks[0].register_forward_pre_hook(lambda _module, args: caught.append(args))
    try:
        model.hidden(tokens_BT, segments_BT)
    finally:
        handle.remove()
    return _Rows(caught[0][0], caught[0][1:], segments_BT != 0)


def _run_order(block: nn.Module, rows: Sequence[_Rows]) -> list[str]:
    """Names of the block's linear layers as they run; last those that do not, experts that no row chooses.

    Raises ValueError for any other layer that does not run.
    """
    order: list[str] = []
    linears = {name: module for name, module in block.named_modules() if is_layer(module)}
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: order.append(name))
        for name, module in linears.items()
    ]
    try:
        for row in rows:
            block(row.x_BTD, *row.rest)
            if len(set(order)) == len(linears):
                break
    finally:
        for handle in handles:
            handle.remove()
    experts = tuple(f"{name}." for name, module in block.named_modules() if hasattr(module, "apart"))
    for name in linears:
        if name not in order and not name.startswith(experts):
            raise ValueError(
                f"quantize: layer {name} saw no calibration token; raise quantize.calibration_rows"
            )
    return list(dict.fromkeys([*order, *linears]))


def _layer_inputs(block: nn.Module, layer: nn.Linear, rows: Sequence[_Rows]) -> Tensor:
    """Inputs of one layer over all calibration rows, padding left out, [M, I]; M = 0 for a layer that does not run."""
    caught: list[Tensor] = []
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
    try:
        for row in rows:
            block(row.x_BTD, *row.rest)
            inputs += [_of_tokens(x, row.real_BT) for x in caught]
            caught.clear()
    finally:
        handle.remove()
    return torch.cat(inputs) if inputs else layer.weight.new_empty(0, layer.in_features)


def _of_tokens(x: Tensor, real_BT: Tensor) -> Tensor:
    """Inputs [M, I] that belong to tokens which count. A layer that does not read every token once, as the one that
    reads chosen tokens or blocks of them, keeps all of its inputs."""
    if x.shape[:-1] == real_BT.shape:
        return x[real_BT]
    flat_MI = x.flatten(0, -2)
    return flat_MI[real_BT.flatten()] if x.dim() == 2 and len(x) == real_BT.numel() else flat_MI


def _error(name: str, linear: nn.Linear, small: QuantModule, x_MI: Tensor) -> LayerError:
    difference = linear.weight - small.dequantize()
    output = float((x_MI @ difference.T).norm() / (x_MI @ linear.weight.T).norm()) if len(x_MI) else None
    return LayerError(name, output, float(difference.norm() / linear.weight.norm()))


# ---------------------------------------------------------------- reports


def size_report(model: Decoder, small: Decoder, before: Path, after: Path) -> dict[str, Any]:
    """Bytes on disk, and bits per weight: of the packed layers, and of the whole model."""
    packed = [module for module in small.modules() if isinstance(module, QuantModule)]
    n_packed = sum(module.rows * module.columns for module in packed)
    n_float = small.num_params()
    packed_bytes = sum(module.stored_bytes for module in packed)
    file_before, file_after = (folder / "model.safetensors" for folder in (before, after))
    return {
        "bytes_before": file_before.stat().st_size,
        "bytes": file_after.stat().st_size,
        "times_smaller": file_before.stat().st_size / file_after.stat().st_size,
        "bits_per_block_weight": _block_bits(small),
        "bits_per_weight": 8 * (packed_bytes + 4 * n_float) / model.num_params(),
        "n_weights_packed": n_packed,
        "n_weights_float": n_float,
    }


def _block_bits(small: Decoder) -> float:
    packed = [module for module in small.blocks.modules() if isinstance(module, QuantModule)]
    stored = 8 * sum(module.stored_bytes for module in packed)
    return stored / sum(module.rows * module.columns for module in packed)


def bpb_report(before: Sequence[DocumentScore], after: Sequence[DocumentScore]) -> dict[str, Any]:
    """Bits per byte of both models by kind, and the change in per cent with its standard error.

    The error is that of the paired differences: both models read the same documents.
    """
    report: dict[str, Any] = {}
    for kind in ["all", *sorted({score.kind for score in before})]:
        pairs = [(b, a) for b, a in zip(before, after, strict=True) if kind in ("all", b.kind)]
        old, _ = ratio([b for b, _ in pairs])
        new, _ = ratio([a for _, a in pairs])
        difference, error = ratio([dataclasses.replace(a, nats=a.nats - b.nats) for b, a in pairs])
        report[kind] = {
            "before": old,
            "after": new,
            "change_percent": 100 * difference / old,
            "change_percent_se": None if math.isnan(error) else 100 * error / old,
            "n": len(pairs),
        }
    return report


def layer_report(errors: Sequence[LayerError]) -> dict[str, Any]:
    """The worst layer, the mean, how many saw no token (experts; not in the mean), and every layer's errors by name."""
    outputs = {error.name: error.output for error in errors if error.output is not None}
    worst = max(outputs, key=outputs.__getitem__)
    return {
        "max_error": outputs[worst],
        "max_error_layer": worst,
        "mean_error": sum(outputs.values()) / len(outputs),
        "n_layers": len(errors),
        "n_unseen": len(errors) - len(outputs),
        "by_layer": {error.name: {"output": error.output, "weight": error.weight} for error in errors},
    }
