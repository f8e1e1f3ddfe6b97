"""scale: time and memory of the cleaning stages over corpora of N times the default one.

    python -m benchmarks.scale --sizes 1 2 5 10 20 --out docs/data       parallel.csv and parallel.png
    python -m benchmarks.scale --ratio 5 --sizes 2 --stages filter       one process beside two, alternating

The corpus of size N holds the training documents N times. The first copy is the original; in the others a
third of the words are replaced by words drawn from the corpus, so that no copy is a duplicate or nearly one,
and ids are new. Each stage runs by its command in dvc.yaml. Memory: the largest sum of the resident sizes of its
processes, looked at 20 times a second, and no less than what the kernel says of the largest one.
"""

import os
import random
import re
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile, copytree, rmtree

import yaml

from llm.data.document import Document, read_documents, write_documents
from llm.runtime import write_csv

STAGES = ("dedup", "filter", "analyze")
RAW = Path("data", "raw")
REPLACED = 1 / 3  # of the words: of five words in a row, one run in eight is left
HEADER = ("stage", "workers", "copies", "megabytes", "documents", "seconds", "cpu_seconds", "peak_megabytes")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a stage. cpu_s: of the stage's own process, so of all the work when there is one."""

    seconds: float
    cpu_s: float
    peak_bytes: int


def main() -> None:
    cli = ArgumentParser(description=__doc__.split("\n")[0])
    cli.add_argument("--work", type=Path, default=Path(".work/scale"))
    cli.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 5])
    cli.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    cli.add_argument("--workers", type=int, default=1)
    cli.add_argument(
        "--ratio", type=int, default=0, help="rounds of one process beside two, instead of a table"
    )
    cli.add_argument("--out", type=Path, help="folder for parallel.csv and parallel.png")
    args = cli.parse_args()

    rows = []
    for copies in args.sizes:
        folder = args.work / str(copies)
        documents = lay_out(folder, copies)
        megabytes = (folder / RAW / "pretrain" / "train.jsonl").stat().st_size / 1e6
        for stage in STAGES:  # all of them: each reads what the one before wrote
            if stage in args.stages and args.ratio:
                compare(folder, stage, args.ratio)
            run = run_stage(stage, folder, args.workers)
            if stage not in args.stages or args.ratio:
                continue
            peak = run.peak_bytes / 1e6
            rows.append((stage, args.workers, copies, megabytes, documents, run.seconds, run.cpu_s, peak))
            print(*(f"{cell:.1f}" if isinstance(cell, float) else cell for cell in rows[-1]), flush=True)
            if args.out:
                write_csv(args.out / "parallel.csv", HEADER, rows)
        rmtree(folder)
    if args.out:
        draw(args.out)


def lay_out(folder: Path, copies: int) -> int:
    """Write the corpus, document by document, into a folder like the repository; returns how many documents."""
    target = folder / RAW / "pretrain"
    target.mkdir(parents=True, exist_ok=True)
    for other in ("sft", "preference", "prompts"):
        copytree(RAW / other, folder / RAW / other, dirs_exist_ok=True)
    copyfile("params.yaml", folder / "params.yaml")
    copyfile(RAW / "pretrain" / "validation.jsonl", target / "validation.jsonl")
    return write_documents(target / "train.jsonl", noisy_copies(RAW / "pretrain" / "train.jsonl", copies))


def noisy_copies(source: Path, copies: int) -> Iterator[Document]:
    draw = random.Random(0)
    words = [word for document in read_documents(source) for word in document.text.split()[:200]]
    for number in range(copies):
        for document in read_documents(source):
            if number:
                text = re.sub(
                    r"\S+", lambda m: draw.choice(words) if draw.random() < REPLACED else m[0], document.text
                )
                again = f"{document.id}~{number}"
                document = replace(document, id=again, work=f"{document.work}~{number}", text=text)
            yield document


def run_stage(stage: str, folder: Path, workers: int) -> Run:
    """Run one stage in `folder` and watch it."""
    line = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["cmd"]
    command = [sys.executable, *line.split()[1:]]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "LLM_WORKERS": str(workers)}
    t0 = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=env)
    peak = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, sum(map(resident_bytes, family(process.pid))))
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{stage} failed in {folder}")
    return Run(
        seconds=time.perf_counter() - t0,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=max(peak, usage.ru_maxrss * 1024),
    )


def family(pid: int) -> list[int]:
    """A process and all its descendants (Linux)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def compare(folder: Path, stage: str, rounds: int) -> None:
    """Wall time of one process over that of two, both measured in turn."""
    ratios = []
    for _ in range(rounds):
        one, two = (run_stage(stage, folder, workers) for workers in (1, 2))
        ratios.append(one.seconds / two.seconds)
        print(f"{stage}: {one.seconds:.2f} s, {two.seconds:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"{stage}: median ratio {statistics.median(ratios):.2f}")


def draw(out: Path) -> None:
    """Two pictures beside one another: processor time and memory over the size of the corpus."""
    import csv

    from matplotlib.figure import Figure

    with open(out / "parallel.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of_stage = [row for row in rows if row["stage"] == stage]
        sizes = [float(row["megabytes"]) for row in of_stage]
        for axis, key in zip(axes, ("cpu_seconds", "peak_megabytes"), strict=True):
            axis.plot(sizes, [float(row[key]) for row in of_stage], marker="o", label=stage)
    largest = max(float(row["megabytes"]) for row in rows)
    axes[1].plot([0, largest], [0, largest], color="0.6", linestyle=":", label="the corpus itself")
    for axis, label in zip(axes, ("processor time, s", "peak memory, MB"), strict=True):
        axis.set(xlabel="corpus, MB", ylabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(out / "parallel.png", dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
