"""scale: processor time and memory of dedup, filter and analyze over the size of the corpus, one process.

    python -m benchmarks.scale --sizes 1 5 20 --out docs/images/scale.png
    python -m benchmarks.scale --sizes 1 5 20 --stages analyze

The corpus is the downloaded one, repeated: in every further copy a third of the words are replaced by words of
that copy alone, so that copies are no duplicates. Prints a table and draws a picture. Where filter does not
run, analyze compares the corpus with one copy of it.
"""

import dataclasses
import os
import random
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from llm.data.document import Document, read_documents, write_documents

STAGES = {
    "dedup": "--input corpus --out dedup --dropped dropped/dedup --metrics m.json --plots plots",
    "filter": "--input dedup --out clean --dropped dropped/filter --metrics m.json",
    "analyze": "--raw corpus --clean clean --dropped-dedup dropped/dedup --dropped-filter dropped/filter "
    "--metrics m.json --plots plots/analyze",
}


def copies(source: Path, n: int) -> Iterator[Document]:
    """The documents n times, noisy from the second time on."""
    for copy in range(n):
        draw = random.Random(copy)
        for document in read_documents(source):
            words = document.text.split(" ")
            if copy:
                words = [f"{word}x{copy}" if draw.random() < 1 / 3 else word for word in words]
            yield dataclasses.replace(document, id=f"{document.id}/{copy}", text=" ".join(words))


def run(stage: str, folder: Path) -> tuple[float, float]:
    """Processor seconds and peak memory in MiB of one stage."""
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": str(root), "LLM_WORKERS": "1", "OMP_NUM_THREADS": "1"}
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", f"stages.{stage}", *STAGES[stage].split()], env)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{stage} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 20])
    cli.add_argument("--stages", nargs="+", choices=STAGES, default=["dedup", "filter"])
    cli.add_argument("--source", type=Path, default=Path("data/raw/pretrain"))
    cli.add_argument("--out", type=Path)
    args = cli.parse_args()
    rows = []
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "params.yaml").write_text(Path("params.yaml").read_text())
            write_documents(folder / "corpus" / "train.jsonl", copies(args.source / "train.jsonl", n))
            validation = read_documents(args.source / "validation.jsonl")
            write_documents(folder / "corpus" / "validation.jsonl", validation)
            lay_out(args.source, folder)
            megabytes = (folder / "corpus" / "train.jsonl").stat().st_size / 1e6
            figures = [figure for stage in args.stages for figure in run(stage, folder)]
        rows.append((n, megabytes, *figures))
        cells = " | ".join(
            f"{s:.1f} s | {mib:.0f} MiB" for s, mib in zip(figures[::2], figures[1::2], strict=True)
        )
        print(f"| {n} | {megabytes:.0f} | {cells} |", flush=True)
    if args.out:
        draw(rows, args.stages, args.out)


def lay_out(source: Path, folder: Path) -> None:
    """What analyze reads where the stages before it do not run."""
    for name in ("dedup", "filter"):
        (folder / "dropped" / name).mkdir(parents=True)
        (folder / "dropped" / name / "dropped.jsonl").touch()
    shutil.copytree(source, folder / "clean")


def draw(rows: list[tuple[float, ...]], stages: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for place, stage in enumerate(stages):
        time.plot([row[1] for row in rows], [row[2 + 2 * place] for row in rows], "o-", label=stage)
        memory.plot([row[1] for row in rows], [row[3 + 2 * place] for row in rows], "o-", label=stage)
    time.set(xlabel="corpus, MB", ylabel="processor time, s", ylim=0)
    memory.set(xlabel="corpus, MB", ylabel="peak memory, MiB", ylim=0)
    time.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
