"""Every member of a family of the architecture in the same small model: equal parameters, equal tokens, three seeds.

    python -m benchmarks.ablation queue [--family mixer] [--seeds 1337 1 2]   experiments for `dvc queue start`
    python -m benchmarks.ablation table [--family mixer]                      what came out, from `dvc exp show`
    python -m benchmarks.ablation shown [--family mixer]                      the rows of `dvc exp show` themselves
    python -m benchmarks.ablation speed [--family mixer]                      training speed beside the base model

The model has d_model 128 and 4 layers and reads 400 000 tokens of the default corpus, about a minute on one core. Where
a member needs more or fewer parameters than the base model, the width of the feed-forward layers makes up for it
(`width`). Experiments are named <family>-<member>-<number>; the base model is the same in every family and called
mixer-gqa. Run it in a clone: it fills the queue of experiments.
"""

import argparse
import csv
import io
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import from_dict, read_yaml

Changes = dict[str, Any]
BUDGET: Changes = {
    "model.d_model": 128, "model.n_layers": 4, "pretrain.token_budget": 400_000, "pretrain.eval_every": 0,
    "pretrain.save_every": 0, "track.backends": [],
}  # fmt: skip
WIDTH = "model.ffn.swiglu.d_ff"
BASE_WIDTH = 336


def hybrid(first: str, second: str, pattern: str, **changes: Any) -> Changes:
    """Layers by letter: f is the first part, s the second."""
    named = {"f": "first", "s": "second"}
    return {
        "model.mixer.kind": "hybrid",
        "model.mixer.hybrid.pattern": [named[letter] for letter in pattern],
        "model.mixer.hybrid.first.kind": first,
        "model.mixer.hybrid.second.kind": second,
    } | {f"model.mixer.hybrid.{path}": value for path, value in changes.items()}


def simple(path: str, *kinds: str) -> dict[str, Changes]:
    return {kind: {path: kind} for kind in kinds}


# What each member changes of params.yaml; the first of a family is the base model.
FAMILIES: dict[str, dict[str, Changes]] = {
    "mixer": {"gqa": {}, "gqa_plain": {"model.mixer.gqa.qk_norm": False}} | simple(
        "model.mixer.kind", "mla", "sliding_window", "longformer", "nsa", "dsa", "moba", "linear", "performer", "flash",
        "lightning", "log_linear", "delta", "gated_delta", "kda", "mamba", "mamba2", "rwkv4", "rwkv7",
    ) | {
        "mamba2_16_heads": {"model.mixer.kind": "mamba2", "model.mixer.mamba2.d_head": 16},
        "mamba_gqa": hybrid("mamba", "gqa", "fffs"), "lightning_gqa": hybrid("lightning", "gqa", "fffs"),
        "kda_mla": hybrid("kda", "mla", "fffs", **{"second.mla.rotate": False}),
        "gated_delta_gqa": hybrid("gated_delta", "gqa", "fffs"),
        "sliding_gqa": hybrid("sliding_window", "gqa", "fs"),
    },
    "ffn": {"swiglu": {}} | simple("model.ffn.kind", "mlp", "geglu", "relu2", "moe", "moe_deepseek"),
    "position": {"rope": {}} | simple("model.position.kind", "none", "learned", "sinusoidal", "alibi"),
    "norm": {"rmsnorm": {}} | simple("model.norm.kind", "layernorm", "rmsnorm_unit_offset"),
    "residual": {"pre_norm": {}} | simple("model.residual.kind", "post_norm", "sandwich", "output_norm"),
    "init": {"gpt2": {}} | simple("model.init.kind", "kaiming", "xavier"),
    "mtp": {"next token only": {}, "mtp": {"model.mtp.depth": 1}},
}  # fmt: skip


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("what", choices=["queue", "table", "shown", "speed", "widths"])
    cli.add_argument("--family", choices=FAMILIES, default="mixer")
    cli.add_argument("--members", nargs="+", help="only these")
    cli.add_argument("--seeds", type=int, nargs="+", default=[1337, 1, 2])
    cli.add_argument("--vocab-size", type=int, default=4096)
    args = cli.parse_args()
    members = {k: v for k, v in FAMILIES[args.family].items() if not args.members or k in args.members}
    runs = {
        name: BUDGET | changes | width(args.family, changes, args.vocab_size)
        for name, changes in members.items()
    }
    {"queue": queue, "table": table, "shown": shown, "speed": speed, "widths": widths}[args.what](args, runs)


def widths(args: argparse.Namespace, runs: dict[str, Changes]) -> None:
    for name, changes in runs.items():
        model = build(changes, args.vocab_size)
        print(f"{name:18s} d_ff {changes.get(WIDTH)} params {model.num_params():,}")


def build(changes: Changes, vocab_size: int, device: str = "meta") -> Decoder:
    """The model that params.yaml with these changes describes."""
    values = read_yaml(Path("params.yaml"))["model"]
    for path, value in changes.items():
        first, *parents, last = path.split(".")
        if first == "model":
            section = values
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
    with torch.device(device):
        return Decoder(from_dict(ModelConfig, values, "model"), vocab_size)


def width(family: str, changes: Changes, vocab_size: int) -> Changes:
    """The feed-forward width with which the model has as many parameters as the base model: they grow linearly."""
    path = next((f"model.ffn.{v}.d_ff" for k, v in changes.items() if k == "model.ffn.kind"), WIDTH)
    wanted = build(BUDGET | {WIDTH: BASE_WIDTH}, vocab_size).num_params()
    few, many = (build(BUDGET | changes | {path: d}, vocab_size).num_params() for d in (100, 200))
    return {path: max(8, round(100 + (wanted - few) * 100 / (many - few)))}


def queue(args: argparse.Namespace, runs: dict[str, Changes]) -> None:
    """One command a member: DVC makes an experiment of every seed and numbers them."""
    seeds = ",".join(str(seed) for seed in args.seeds)
    for name, changes in runs.items():
        if is_base(args.family, name) and args.family != "mixer":
            continue
        sets = [f"-S{new(path)}{path}={value}" for path, value in (changes | {"seed": seeds}).items()]
        command = ["dvc", "exp", "run", "-q", "--queue", "-n", label(args.family, name), *sets, "pretrain"]
        subprocess.run(command, check=True)


def is_base(family: str, name: str) -> bool:
    return name == next(iter(FAMILIES[family]))


def label(family: str, name: str) -> str:
    if is_base(family, name):
        family, name = "mixer", "gqa"
    return f"{family}-{name}".replace("_", "").replace(" ", "")


def new(path: str) -> str:
    """DVC wants a + before a key that params.yaml has not."""
    section: Any = read_yaml(Path("params.yaml"))
    for key in path.split("."):
        if not isinstance(section, dict) or key not in section:
            return "+"
        section = section[key]
    return ""


def table(args: argparse.Namespace, runs: dict[str, Changes]) -> None:
    """Means and spreads over seeds; against the base model seed by seed, since a seed moves both alike."""
    found = scores()
    base = found[label("mixer", "gqa")]
    lines = []
    for name, changes in runs.items():
        mine = {
            seed: bpb for seed, bpb in found.get(label(args.family, name), {}).items() if seed in args.seeds
        }
        if not mine:
            print(f"{name}: nothing yet")
            continue
        d_ff = next(value for path, value in changes.items() if path.endswith("d_ff"))
        apart = [bpb - base[seed] for seed, bpb in mine.items() if seed in base]
        against = "" if is_base(args.family, name) else spread(apart, "+.3f")
        cells = [name, d_ff, spread(list(mine.values()), ".3f"), against, len(mine)]
        lines.append((statistics.mean(apart), "| " + " | ".join(map(str, cells)) + " |"))
    print("| | feed-forward width | bits per byte | against the base model, seed by seed | seeds |")
    print("|---|--:|--:|--:|--:|")
    print("\n".join(line for _, line in sorted(lines)))


def spread(values: list[float], form: str) -> str:
    """Mean and standard deviation."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def shown(args: argparse.Namespace, runs: dict[str, Changes]) -> None:
    """Rows of `dvc exp show` of the family, best first."""
    names = {label(args.family, name) for name in runs}
    rows = [row for row in experiments() if row["Experiment"].rpartition("-")[0] in names]
    print("| Experiment | seed | val_bpb.all | val_bpb.chat | val_bpb.tales |\n|---|--:|--:|--:|--:|")
    for row in sorted(rows, key=lambda row: float(row[bits(row)])):
        all_bytes = bits(row)
        cells = [row["Experiment"], row["seed"], row[all_bytes]]
        cells += [row[all_bytes.replace(".all", f".{kind}")] for kind in ("chat", "tales")]
        print("| " + " | ".join(cells) + " |")


def scores() -> dict[str, dict[int, float]]:
    """Bits per byte by name of the experiment, without its number, and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in experiments():
        found.setdefault(row["Experiment"].rpartition("-")[0], {})[int(row["seed"])] = float(row[bits(row)])
    return found


def experiments() -> list[dict[str, str]]:
    """Finished rows of `dvc exp show`, of every commit that has any; of two of a name and a seed the later one."""
    refs = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"],
        check=True,
        capture_output=True,
        text=True,
    )
    # refs/exps/ab/cdef.../name: the commit an experiment began with, its first two letters apart
    parts = [ref.split("/") for ref in refs.stdout.split() if ref.count("/") == 4]
    commits = sorted({f"{head}{rest}" for _, _, head, rest, _ in parts})
    command = ["dvc", "exp", "show", "--csv", *(f"--rev={commit}" for commit in commits)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # one that failed is shown with the metrics of the commit it began with, one that runs without any
    rows = [
        row
        for row in csv.DictReader(io.StringIO(text))
        if row["Experiment"] and row["State"] != "Failed" and row[bits(row)][:1].isdigit()
    ]
    rows.sort(key=lambda row: row["Created"])
    latest = {(row["Experiment"].rpartition("-")[0], row["seed"]): row for row in rows}
    return list(latest.values())


def bits(row: dict[str, str]) -> str:
    return next(key for key in row if key.endswith("pretrain.json:val_bpb.all") or key == "val_bpb.all")


def speed(args: argparse.Namespace, runs: dict[str, Changes]) -> None:
    """Forward and backward of 8 rows of 256 tokens in bfloat16; the base model and a member in turn, best of five."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.randint(args.vocab_size, (8, 257))
    batch = TokenBatch(rows[:, :-1], rows[:, 1:], torch.ones(8, 256, dtype=torch.bool))
    models = {name: build(changes, args.vocab_size, "cpu").bfloat16() for name, changes in runs.items()}
    base = next(iter(models))
    print("| | tokens/s beside the base model | state bytes, row of 64 | of 512 |\n|---|--:|--:|--:|")
    for name, model in models.items():
        best = {key: float("inf") for key in (base, name)}
        for _ in range(5):
            for key in best:
                best[key] = min(best[key], once(models[key], batch))
        sizes = (sum(state.nbytes for state in model.init_state(1, room)) for room in (64, 512))
        shown = " | ".join(f"{size:,}" for size in sizes)
        print(f"| {name} | {best[base] / best[name]:.2f} | {shown} |", flush=True)


def once(model: Decoder, batch: TokenBatch) -> float:
    start = time.perf_counter()
    loss = next_token_loss(model, batch)
    (loss.sum / loss.count).backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
