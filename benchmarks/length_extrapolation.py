"""length_extrapolation: train small models on rows of 256 tokens, then read documents of 2048.

    python -m benchmarks.length_extrapolation --out docs/images/length_extrapolation.png

Three groups, one table row each: bits per byte of the held-out documents by the place of a token.
  trained    every kind of position, trained from the start with rows of 256 tokens
  put on     PI, NTK, YaRN and the Llama-3 rule with factor 8 on the finished weights of rope, nothing trained
  tuned      the same after a few steps on rows of 2048 tokens
The last row is rope read in windows of 256 tokens that overlap by half: what no long context at all gives.
Data and settings of the optimizers are those of the pipeline: run `dvc repro pack` first.
"""

import dataclasses
import itertools
import math
import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llm.data.encoded import EncodedSet
from llm.data.packed import PackedRows, RowSource
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss, token_logps
from llm.params import from_dict, read_yaml
from llm.runtime import set_up_torch
from llm.tokenizer.base import load_tokenizer
from llm.train.loop import LoopParams, train

SHORT, LONG = 256, 2048
FACTOR = LONG / SHORT
TUNE_RATE = 0.1  # of the learning rates of the training
EDGES = (0, 128, 256, 320, 384, 512, 768, 1024, 1536, 2048)
STRETCHED = {kind: {"kind": kind, "factor": FACTOR} for kind in ("pi", "ntk")} | {
    kind: {"kind": kind, "factor": FACTOR, "original_len": SHORT} for kind in ("yarn", "llama3")
}
TRAINED = {kind: {"kind": kind} for kind in ("none", "sinusoidal", "alibi", "rope")} | STRETCHED
MODEL = {
    "max_len": LONG, "tied_head": False, "norm": {"kind": "rmsnorm"},
    "init": {"kind": "gpt2", "std": 0.02, "residual_scale": 0.0},
}  # fmt: skip
Curve = list[float]
RUNS = itertools.count()  # every training has a work folder of its own


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--steps", type=int, default=300, help="of every training, 16 rows of 256 tokens each")
    cli.add_argument("--tune-steps", type=int, default=30, help="two rows of 2048 tokens each")
    cli.add_argument("--docs", type=int, default=34, help="held-out documents of at least 2049 tokens")
    cli.add_argument("--width", type=int, default=128)
    cli.add_argument("--layers", type=int, default=4)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--out", type=Path)
    args = cli.parse_args()
    os.environ["LLM_WORK_DIR"] = tempfile.mkdtemp()  # nothing to resume
    set_up_torch(args.seed)
    curves = measure(args)
    print_table(curves)
    if args.out:
        draw(curves, args.out)


def measure(args: Namespace) -> dict[str, Curve]:
    """Bits per byte between the EDGES for every model, by its name in the table."""
    texts = held_out(args.docs)
    curves: dict[str, Curve] = {}
    rope = None
    for kind, position in TRAINED.items():
        model = build(args, position)
        fit(model, short_rows(args.seed), steps=args.steps, seed=args.seed)
        curves[f"{kind}, trained"] = note(f"{kind}, trained", by_place(model, *texts))
        rope = model if kind == "rope" else rope
    assert rope is not None
    for kind, position in STRETCHED.items():
        model = with_position(rope, args, position)
        curves[f"{kind}, put on rope"] = note(f"{kind}, put on rope", by_place(model, *texts))
    for kind in ("rope", *STRETCHED):
        model = with_position(rope, args, TRAINED[kind])
        fit(model, LongRows(args.seed), steps=args.tune_steps, seed=args.seed, rate=TUNE_RATE)
        curves[f"{kind}, tuned"] = note(f"{kind}, tuned", by_place(model, *texts))
    curves["rope, windows of 256"] = note("rope, windows of 256", by_place(rope, *texts, window=SHORT))
    return curves


# ---------------------------------------------------------------- models and their training


def build(args: Namespace, position: dict) -> Decoder:
    heads = args.width // 32
    parts = {
        "d_model": args.width, "n_layers": args.layers, "position": position,
        "mixer": {"kind": "gqa", "n_heads": heads, "n_kv_heads": max(1, heads // 2), "qk_norm": True},
        "ffn": {"kind": "swiglu", "d_ff": args.width * 8 // 3},
    }  # fmt: skip
    torch.manual_seed(args.seed)
    vocab_size = PackedRows.open(Path("data/packed/pretrain")).meta["vocab_size"]
    return Decoder(from_dict(ModelConfig, MODEL | parts, "model"), vocab_size)


def with_position(trained: Decoder, args: Namespace, position: dict) -> Decoder:
    """The same weights under another rotation: rotations have none."""
    model = build(args, position)
    model.load_state_dict(trained.state_dict())
    return model


def fit(model: Decoder, source: "RowSource | LongRows", *, steps: int, seed: int, rate: float = 1.0) -> None:
    """Train with the settings of params.yaml; rate: factor on all learning rates."""
    settings = read_yaml(Path("params.yaml"))["pretrain"]
    for group in settings["optimizer"].values():
        if isinstance(group, dict):
            group["lr"] *= rate
    wanted = {field.name for field in dataclasses.fields(LoopParams)}
    changes = {
        "steps": steps,
        "log_every": max(1, steps // 4),
        "eval_every": 0,
        "save_every": 0,
        "telemetry_every": 0,
    }
    params = from_dict(LoopParams, {k: v for k, v in settings.items() if k in wanted} | changes, "pretrain")
    run = f"run{next(RUNS)}"
    train(model, next_token_loss, source, params, stage="extrapolation", seed=seed, fingerprint=run)


def short_rows(seed: int) -> RowSource:
    return RowSource(
        PackedRows.open(Path("data/packed/pretrain")), seed=seed, rows_per_step=16, micro_rows=16
    )


class LongRows:
    """Rows of 2048 tokens: the beginnings of the long documents, two a step."""

    def __init__(self, seed: int) -> None:
        documents = EncodedSet.open(Path("data/encoded/pretrain/train"))
        self.rows = [documents.doc(i)[: LONG + 1].astype(np.int64) for i in long_ones(documents)]
        self.order = np.random.default_rng(seed).permutation(len(self.rows))

    def micro_batches(self, step: int) -> Sequence[TokenBatch]:
        batches = []
        for place in (2 * step, 2 * step + 1):
            row = torch.from_numpy(self.rows[self.order[place % len(self.order)]])[None]
            batches.append(TokenBatch(row[:, :-1], row[:, 1:], torch.ones(1, LONG, dtype=torch.bool)))
        return batches


# ---------------------------------------------------------------- measuring


def long_ones(documents: EncodedSet) -> list[int]:
    """Documents of more than 2048 tokens besides the closing one."""
    return [i for i in range(len(documents)) if len(documents.doc(i)) > LONG + 1]


def held_out(n_docs: int) -> tuple[Tensor, Tensor]:
    """The first 2049 tokens of the held-out documents, and how many bytes each of the tokens stands for."""
    documents = EncodedSet.open(Path("data/encoded/pretrain/validation"))
    tokens = np.stack([documents.doc(i)[: LONG + 1] for i in long_ones(documents)[:n_docs]]).astype(np.int64)
    sizes = torch.tensor([len(piece) for piece in load_tokenizer(Path("models/tokenizer")).piece_bytes])
    return torch.from_numpy(tokens), sizes[torch.from_numpy(tokens)]


@torch.no_grad()
def by_place(model: Decoder, tokens_BT: Tensor, sizes_BT: Tensor, window: int | None = None) -> Curve:
    """Bits per byte of the targets whose input stands between two EDGES."""
    model.eval()
    nats_BT = torch.cat([-read(model, row[None], window) for row in tokens_BT]).double()
    sizes_BT = sizes_BT[:, 1:].double()
    spans = itertools.pairwise(EDGES)
    return [float(nats_BT[:, a:b].sum() / sizes_BT[:, a:b].sum() / math.log(2)) for a, b in spans]


def read(model: Decoder, row_1T: Tensor, window: int | None) -> Tensor:
    """log p of every token after the first; with `window`, each from at most that many before it."""
    if window is None:
        return token_logps(model, row_1T)
    parts = [token_logps(model, row_1T[:, : window + 1])]
    for start in range(window, row_1T.shape[1] - 1, window // 2):
        part = token_logps(model, row_1T[:, start - window // 2 : start + window // 2 + 1])
        parts.append(part[:, window // 2 :])
    return torch.cat(parts, dim=1)


# ---------------------------------------------------------------- what is shown


def note(name: str, curve: Curve) -> Curve:
    print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in curve) + " |", flush=True)
    return curve


def print_table(curves: dict[str, Curve]) -> None:
    print(
        "\n| bits per byte at place | " + " | ".join(f"{a}-{b}" for a, b in itertools.pairwise(EDGES)) + " |"
    )
    print("|---" * len(EDGES) + "|")
    for name, curve in curves.items():
        note(name, curve)


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Three pictures of what a model loses (above 0) or gains beside rope that looks back 256 tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    places = [math.sqrt(max(a, 32) * b) for a, b in itertools.pairwise(EDGES)]
    base = curves["rope, windows of 256"]
    lost = {name: [a - b for a, b in zip(curve, base, strict=True)] for name, curve in curves.items()}
    low, high = (edge(map(edge, lost.values())) for edge in (min, max))
    groups = {
        "trained": "trained on 256 tokens",
        "put on rope": "put on the weights of rope",
        "tuned": "tuned on 2048 tokens",
    }
    for axis, (group, title) in zip(figure.subplots(1, 3, sharey=True), groups.items(), strict=True):
        for name, values in lost.items():
            if name.endswith(group) or (group == "put on rope" and name == "rope, trained"):
                axis.plot(places, values, "o-", markersize=3, label=name.partition(",")[0])
        axis.axhline(0, color="black", linestyle=":")
        axis.axvline(SHORT, color="gray", linewidth=0.8)
        axis.set(title=title, xlabel="place of the token", xscale="log")
        axis.set_yscale("symlog", linthresh=0.1)  # straight up to 0.1, so that small differences show
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_yticks(
            [y for y in (-0.1, -0.05, 0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.5, 1, 2, 5) if low <= y <= high]
        )
        axis.set_xticks(EDGES[1:], [str(edge) for edge in EDGES[1:]], rotation=45, fontsize=7)
        axis.minorticks_off()
        axis.legend(fontsize=7)
    figure.axes[0].set_ylabel("bits per byte, difference")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
