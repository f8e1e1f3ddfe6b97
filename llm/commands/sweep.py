"""sweep: `llm tokenizer sweep`, every kind of vocabulary at every size, measured alike.

Each pair of kind and size learns a vocabulary from the training text and is measured on the validation text.
Where a budget is given, a small model is trained on it as well: the model and the optimizer of params.yaml,
its feed-forward width changed until all models have as many parameters as the one of params.yaml, all of them
shown the same bytes of the same text. Bits per byte of held-out text then compare vocabularies; loss per
token would not.

Equations   (1)-(3) in docs/commands/sweep.md
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch

from llm import registry
from llm.data.document import read_documents
from llm.data.encode import encode_set
from llm.data.pack import PackParams, pack_set
from llm.nn.model import Decoder, ModelConfig
from llm.params import Family, load_params
from llm.runtime import atomic_file, output_dir, progress, set_up_torch, work_dir, write_csv
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.quality import measure
from llm.train.pretrain import Inputs, PretrainParams, pretrain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAMILY = "llm.tokenizer.algorithms"
MIN_D_FF = 32  # a narrower feed-forward layer is no model to compare
QUALITY = ("bytes_per_token", "fertility", "whole_words_frac", "single_byte_frac", "used_vocab_frac", "renyi")
HEADER = ("kind", "vocab_size", *QUALITY, "embedding_frac", "d_ff", "params", "tokens", "val_bpb", "spread")


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml the sweep reads; the sweep changes kind, sizes and budget."""

    seed: int
    tokenizer: Annotated[Any, Family(FAMILY)]
    pack: PackParams
    model: ModelConfig
    pretrain: PretrainParams


@dataclass(frozen=True, kw_only=True)
class Row:
    """One vocabulary. embedding_frac: share of the parameters that are the tables of tokens (1).

    val_bpb: mean over the seeds, None where no model was trained; spread: its standard deviation.
    """

    kind: str
    vocab_size: int
    quality: dict[str, float]
    embedding_frac: float
    d_ff: int | None
    params: int | None = None
    tokens: int | None = None
    val_bpb: float | None = None
    spread: float | None = None


def sweep(
    corpus: Path, kinds: Sequence[str], sizes: Sequence[int], *, megabytes: float, seeds: int, out: Path
) -> list[Row]:
    """Measure every kind at every size and write sweep.csv, sweep.md and sweep.png into `out`.

    Raises:
        ValueError: an unknown kind, a size too small for its alphabet, a missing or empty corpus.
    """
    params = load_params(Params)
    for kind in kinds:
        registry.module(FAMILY, kind)
    set_up_torch(params.seed)
    scratch = work_dir() / "sweep"
    rows = []
    for kind in kinds:
        for size in sizes:
            folder = scratch / f"{kind}-{size}"
            rows.append(_row(corpus, kind, size, params, megabytes=megabytes, seeds=seeds, folder=folder))
            shutil.rmtree(folder)
    with output_dir(out) as folder:
        write_csv(folder / "sweep.csv", HEADER, (cells(row) for row in rows))
        with atomic_file(folder / "sweep.md") as handle:
            handle.write(markdown(rows))
        draw(rows, folder / "sweep.png")
    return rows


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers separated by commas. Raises ValueError naming the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: expected whole numbers separated by commas, found {text!r}") from None


def _row(
    corpus: Path, kind: str, size: int, params: Params, *, megabytes: float, seeds: int, folder: Path
) -> Row:
    fields = {"vocab_size": size, "min_frequency": params.tokenizer.min_frequency, "special_tokens": ()}
    algorithm = registry.build(registry.module(FAMILY, kind).Config(**fields))
    tokenizer = train_tokenizer(
        algorithm, _texts(corpus, "train", f"{kind} {size}"), folder / "tokenizer", f"{corpus}/train.jsonl"
    )
    quality = measure(tokenizer, _texts(corpus, "validation", "measure"))
    size = tokenizer.vocab_size
    config = equal_params(params.model, size, target_params(params))
    base = Row(
        kind=kind,
        vocab_size=size,
        quality=quality,
        embedding_frac=embedding_params(params.model, size) / target_params(params),
        d_ff=config.ffn.d_ff if config else None,
    )
    if not config or not megabytes:
        return base
    encode_set("pretrain", corpus, folder / "tokenizer", folder / "encoded")
    pack_set(
        "pretrain",
        folder / "encoded" / "train",
        folder / "packed",
        params.pack,
        tokenizer=folder / "tokenizer",
        seed=params.seed,
    )
    inputs = Inputs.open(folder / "packed", folder / "encoded", folder / "tokenizer")
    budget = dataclasses.replace(
        params.pretrain,
        steps=None,
        token_budget=None,
        byte_budget=int(megabytes * 1e6),
        eval_every=0,  # measured once, at the end
        telemetry_every=0,
    )
    metrics = [_train(inputs, config, budget, params.seed + i) for i in range(seeds)]
    values = torch.tensor([one["val_bpb"]["all"] for one in metrics], dtype=torch.float64)
    return dataclasses.replace(
        base,
        params=metrics[0]["params"],
        tokens=metrics[0]["tokens"],
        val_bpb=float(values.mean()),
        spread=float(values.std()) if seeds > 1 else None,
    )


def _train(inputs: Inputs, config: ModelConfig, budget: PretrainParams, seed: int) -> dict[str, Any]:
    _, result, metrics = pretrain(inputs, config, budget, seed)
    result.finish()
    return metrics


def _texts(corpus: Path, split: str, label: str) -> Iterator[str]:
    for document in progress(read_documents(corpus / f"{split}.jsonl"), label):
        yield document.text


# ---------------------------------------------------------------- models of equal size


def target_params(params: Params) -> int:
    """Parameters of the model of params.yaml with its own vocabulary: what every model of the sweep has."""
    return n_params(params.model, params.tokenizer.vocab_size)


def n_params(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of a model, counted without making them."""
    with torch.device("meta"):
        return Decoder(config, vocab_size).num_params()


def embedding_params(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of the tables of tokens: one row a token on the way in, one on the way out unless tied (1)."""
    return vocab_size * config.d_model * (1 if config.tied_head else 2)


def equal_params(config: ModelConfig, vocab_size: int, target: int) -> ModelConfig | None:
    """The model with the feed-forward width that brings it closest to `target` parameters (2).

    None where the tables of tokens leave no room for a feed-forward layer.
    Raises ValueError for a feed-forward layer that has no d_ff.
    """
    if not hasattr(config.ffn, "d_ff"):
        raise ValueError(
            f"model.ffn: kind '{registry.kind_of(config.ffn)}' has no d_ff to balance vocabularies with; "
            "use --megabytes 0 or another kind"
        )

    def with_width(d_ff: int) -> ModelConfig:
        return dataclasses.replace(config, ffn=dataclasses.replace(config.ffn, d_ff=d_ff))

    narrow = n_params(with_width(MIN_D_FF), vocab_size)
    per_channel = n_params(with_width(MIN_D_FF + 1), vocab_size) - narrow
    d_ff = MIN_D_FF + round((target - narrow) / per_channel)
    return with_width(d_ff) if d_ff >= MIN_D_FF else None


# ---------------------------------------------------------------- tables and pictures


def cells(row: Row) -> list[Any]:
    """A row of sweep.csv."""
    quality = [row.quality[name] for name in QUALITY]
    model = [row.d_ff, row.params, row.tokens, row.val_bpb, row.spread]
    return [row.kind, row.vocab_size, *quality, row.embedding_frac, *model]


def markdown(rows: Sequence[Row]) -> str:
    """The table for people, best bits per byte in bold."""
    trained = [row.val_bpb for row in rows if row.val_bpb is not None]
    best = min(trained, default=None)
    head = [
        *("kind", "size", "bytes/token", "tokens/word", "whole words", "bytes alone", "Rényi", "tables"),
        *("d_ff", "tokens read", "bits/byte"),
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    for row in rows:
        q = row.quality
        bpb = "—" if row.val_bpb is None else f"{row.val_bpb:.3f}"
        bpb = f"**{bpb}**" if row.val_bpb is not None and row.val_bpb == best else bpb
        spread = "" if row.spread is None else f" ± {row.spread:.3f}"
        lines.append(
            f"| {row.kind} | {row.vocab_size:,} | {q['bytes_per_token']:.2f} | {q['fertility']:.2f} "
            f"| {q['whole_words_frac']:.0%} | {q['single_byte_frac']:.0%} | {q['renyi']:.2f} "
            f"| {row.embedding_frac:.0%} | {row.d_ff or '—'} | {f'{row.tokens:,}' if row.tokens else '—'} "
            f"| {bpb}{spread} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bytes per token, and bits per byte where models were trained, over the size of the vocabulary."""
    from matplotlib.figure import Figure

    trained = [row for row in rows if row.val_bpb is not None]
    figure = Figure(figsize=(5 * (1 + bool(trained)), 3.8), layout="constrained")
    left, *right = figure.subplots(1, 1 + bool(trained), squeeze=False)[0]
    _lines(left, rows, lambda row: (row.quality["bytes_per_token"], 0.0))
    left.set(title="How far a token reaches", ylabel="bytes per token, held-out text")
    for axes in right:
        _lines(axes, trained, lambda row: (row.val_bpb or 0.0, row.spread or 0.0))
        axes.set(title="Equal parameters, equal bytes read", ylabel="bits per byte, held-out text")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _lines(axes: "Axes", rows: Sequence[Row], point: Callable[[Row], tuple[float, float]]) -> None:
    """One line a kind through points of (value, spread)."""
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        values, spreads = zip(*map(point, own), strict=True)
        sizes = [row.vocab_size for row in own]
        axes.errorbar(sizes, values, yerr=spreads, marker="o", capsize=3, label=kind)
    axes.set(xscale="log", xlabel="vocabulary")
    axes.set_xticks(sizes := sorted({row.vocab_size for row in rows}), [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.legend()
