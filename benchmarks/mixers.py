"""mixers: what one layer of every mixer costs against the length of the row, beside softmax attention.

    python -m benchmarks.mixers [--kinds gqa mamba2 …] [--lengths 256 512 1024 2048 4096 8192]

One layer of d_model 256 with its default Config, one row, float32, one thread. Of every length the fastest of a few
rounds by processor time, kinds in turn:

train   forward and backward of the whole row
decode  one token after the row, the mean over 8 tokens; the state is filled by a prefill
state   bytes of the decoding state of a row with room for that length
peak    bytes that forward and backward allocate at most beyond their inputs (counted by the profiler of PyTorch)

Writes report/mixers/{mixers.csv,mixers.png} and prints the length from which a mixer is faster than gqa.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "KINETO_LOG_LEVEL": "5"}  # before torch starts its threads

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llm import registry
from llm.nn.mixers.base import Context, Site, next_step
from llm.nn.position.base import Shape
from llm.params import from_dict
from llm.runtime import atomic_file, output_dir, write_csv

D_MODEL, N_LAYERS = 256, 6
BASE = "gqa"
GIVEN: dict[str, dict[str, Any]] = {"gqa": {"n_heads": 4, "n_kv_heads": 2}}
DECODED = 8


class Layer:
    """One mixer with its position encoding, for rows of up to `max_len` tokens."""

    def __init__(self, kind: str, max_len: int) -> None:
        torch.manual_seed(0)
        norm = registry.module("llm.nn.norm", "rmsnorm").Config()
        config = from_dict(registry.module("llm.nn.mixers", kind).Config, GIVEN.get(kind, {}), kind)
        site = Site(d_model=D_MODEL, layer=1, n_layers=N_LAYERS, max_len=max_len, norm=norm)
        self.mixer = registry.build(config, site)
        rope = registry.module("llm.nn.position", "rope")
        shape = Shape(d_model=D_MODEL, max_len=max_len, widths=self.mixer.rotates, n_heads=self.mixer.n_heads)
        self.position = rope.build(rope.Config(), shape)
        self.max_len = max_len

    def train(self, x_BTD: torch.Tensor) -> None:
        """Forward and backward."""
        positions = torch.arange(x_BTD.shape[1])
        angles = self.position.angles(positions, x_BTD.dtype)
        context = Context(positions=positions, dtype=x_BTD.dtype, angles=angles)
        y = self.mixer(x_BTD.requires_grad_(), self.position, context)
        torch.stack([y.square().mean(), *context.losses]).sum().backward()

    @torch.inference_mode()
    def prefilled(self, length: int) -> Any:
        """A state that has read `length` tokens, in pieces of 1,024."""
        state = self.mixer.init_state(1, length + DECODED, device=torch.device("cpu"), dtype=torch.float32)
        for begin in range(0, length, 1024):
            x_BTD = torch.randn(1, min(1024, length - begin), D_MODEL)
            step = next_step(state, self.position, x_BTD.shape[1], x_BTD.dtype)
            self.mixer.prefill(x_BTD, self.position, state, step)
        return state

    @torch.inference_mode()
    def decode(self, state: Any) -> None:
        """A few tokens after the state, which is then set back."""
        mark = state.checkpoint()
        for _ in range(DECODED):
            x_B1D = torch.randn(1, 1, D_MODEL)
            step = next_step(state, self.position, 1, x_B1D.dtype)
            self.mixer.decode(x_B1D, self.position, state, step)
        state.rollback(mark)


def fastest(work: Callable[[], None], rounds: int) -> float:
    """Processor seconds of the fastest of `rounds` runs, after one that warms up; other programs do not count."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def peak_bytes(work: Callable[[], None]) -> int:
    """The most memory `work` holds at once beyond what it found, by the allocations PyTorch reports."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def measure(kind: str, length: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    layer = Layer(kind, length + DECODED)
    x_BTD = torch.randn(1, length, D_MODEL)
    state = layer.prefilled(length)
    room = layer.mixer.init_state(1, length, device=torch.device("cpu"), dtype=torch.float32)
    return {
        "kind": kind,
        "length": length,
        "train_ms": round(1000 * fastest(lambda: layer.train(x_BTD), rounds), 3),
        "decode_ms": round(1000 * fastest(lambda: layer.decode(state), rounds) / DECODED, 4),
        "state_bytes": room.nbytes,
        "peak_bytes": peak_bytes(lambda: layer.train(x_BTD)),
    }


def crossing(rows: list[dict[str, Any]], kind: str, column: str) -> int | None:
    """The shortest length from which on `kind` stays below gqa."""
    base = {row["length"]: row[column] for row in rows if row["kind"] == BASE}
    own = {row["length"]: row[column] for row in rows if row["kind"] == kind}
    first = None
    for length in sorted(own, reverse=True):
        if own[length] >= base[length]:
            break
        first = length
    return first


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Four panels against the length, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 11), layout="constrained")
    FigureCanvasAgg(figure)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    titles = {"train_ms": "forward and backward, ms", "decode_ms": "one token, ms",
              "state_bytes": "decoding state, bytes", "peak_bytes": "memory of training, bytes"}  # fmt: skip
    for axes, (column, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for number, kind in enumerate(kinds):
            points = [(row["length"], row[column]) for row in rows if row["kind"] == kind]
            style = {"color": "black", "linewidth": 3} if kind == BASE else {"color": f"C{number % 10}"}
            axes.plot(
                *zip(*points, strict=True), label=kind, linestyle=("-", "--", ":")[number // 10 % 3], **style
            )
        axes.set(title=title, xlabel="tokens", xscale="log", yscale="log")
    figure.axes[0].legend(fontsize=8, ncols=2)
    with atomic_file(path, mode="wb") as handle:
        figure.savefig(handle, format="png", dpi=80, metadata={"Software": None})


def main() -> None:
    kinds = [kind for kind in registry.kinds("llm.nn.mixers") if kind != "hybrid"]
    cli = ArgumentParser(description=__doc__.split("\n")[0])
    cli.add_argument("--kinds", nargs="+", default=[BASE, *(kind for kind in kinds if kind != BASE)])
    cli.add_argument("--lengths", nargs="+", type=int, default=[256, 512, 1024, 2048, 4096, 8192])
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--out", type=Path, default=Path("report/mixers"))
    args = cli.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("| kind | length | train ms | decode ms | state bytes | peak MB |\n|---|---|---|---|---|---|")
    for length in args.lengths:
        for kind in args.kinds:
            row = measure(kind, length, args.rounds)
            rows.append(row)
            peak = row["peak_bytes"] / 1e6
            numbers = f"{row['train_ms']} | {row['decode_ms']} | {row['state_bytes']:,} | {peak:.1f}"
            print(f"| {kind} | {length} | {numbers} |", flush=True)
    with output_dir(args.out) as folder:
        write_csv(folder / "mixers.csv", rows[0], [row.values() for row in rows])
        draw(rows, folder / "mixers.png")
    for kind in args.kinds[1:]:
        found = {column: crossing(rows, kind, column) for column in ("train_ms", "decode_ms", "peak_bytes")}
        print(kind, "below", BASE, "from", found)


if __name__ == "__main__":
    main()
