"""encode: the speed of the encode stage beside `tokenizers.encode_batch` alone on the same texts.

    python -m benchmarks.encode --input data/clean --tokenizer models/tokenizer

The two alternate, each in a process of its own, so that a busy machine slows both. The stage reads JSONL,
encodes, and writes tokens, masks, offsets and records; the bare call gets the texts ready in memory and throws
its result away.
"""

import multiprocessing
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tokenizers

from llm.data.document import SPLITS, read_documents
from llm.data.encode import encode_set

Seconds = tuple[float, float]  # wall time, CPU time of all threads


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--input", type=Path, default=Path("data/clean"))
    cli.add_argument("--tokenizer", type=Path, default=Path("models/tokenizer"))
    cli.add_argument("--rounds", type=int, default=5)
    args = cli.parse_args()

    texts = read_texts(args.input)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB")
    wall_ratios, cpu_ratios = [], []
    for number in range(args.rounds):
        bare = in_new_process(run_bare, args.tokenizer, args.input)
        stage = in_new_process(run_stage, args.tokenizer, args.input)
        wall_ratios.append(bare[0] / stage[0])
        cpu_ratios.append(bare[1] / stage[1])
        print(
            f"round {number}: encode_batch {megabytes / bare[0]:6.2f} MB/s, encode stage "
            f"{megabytes / stage[0]:6.2f} MB/s, ratio {wall_ratios[-1]:.2f} (CPU time {cpu_ratios[-1]:.2f})",
            flush=True,
        )
    wall, cpu = statistics.median(wall_ratios), statistics.median(cpu_ratios)
    print(f"median ratio, stage / encode_batch: {wall:.2f} in wall time, {cpu:.2f} in CPU time; 0.9 is asked")


def in_new_process(work: Callable[[Path, Path], Seconds], folder: Path, source: Path) -> Seconds:
    """Run a measurement as a stage runs: in a process that has encoded nothing before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, folder, source).result()


def run_bare(folder: Path, source: Path) -> Seconds:
    """One `encode_batch` over all texts; reading them is not counted."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = read_texts(source)
    wall, cpu = time.perf_counter(), time.process_time()
    backend.encode_batch(texts, add_special_tokens=False)
    return time.perf_counter() - wall, time.process_time() - cpu


def run_stage(folder: Path, source: Path) -> Seconds:
    """The whole stage: reading, encoding, masks, writing, checking."""
    with tempfile.TemporaryDirectory() as out:
        wall, cpu = time.perf_counter(), time.process_time()
        encode_set("pretrain", source, folder, Path(out) / "encoded")
        return time.perf_counter() - wall, time.process_time() - cpu


def read_texts(source: Path) -> list[str]:
    return [document.text for split in SPLITS for document in read_documents(source / f"{split}.jsonl")]


if __name__ == "__main__":
    main()
