"""encode: the speed of the encode stage beside `tokenizers.encode_batch` alone on the same texts.

    python -m benchmarks.encode --input data/clean --tokenizer models/tokenizer

The two alternate, so that a busy machine slows both. The stage reads JSONL, encodes, and writes tokens, masks,
offsets and records; the bare call gets the texts ready in memory and throws its result away.
"""

import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import tokenizers

from llm.data.document import SPLITS, read_documents
from llm.data.encode import encode_set


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--input", type=Path, default=Path("data/clean"))
    cli.add_argument("--tokenizer", type=Path, default=Path("models/tokenizer"))
    cli.add_argument("--rounds", type=int, default=5)
    args = cli.parse_args()

    texts = [document.text for split in SPLITS for document in read_documents(args.input / f"{split}.jsonl")]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB")
    wall_ratios, cpu_ratios = [], []
    for number in range(args.rounds):
        bare = seconds(lambda: run_bare(args.tokenizer, texts))
        stage = seconds(lambda: run_stage(args.tokenizer, args.input))
        wall_ratios.append(bare[0] / stage[0])
        cpu_ratios.append(bare[1] / stage[1])
        print(
            f"round {number}: encode_batch {megabytes / bare[0]:6.2f} MB/s, encode stage "
            f"{megabytes / stage[0]:6.2f} MB/s, ratio {wall_ratios[-1]:.2f} (CPU time {cpu_ratios[-1]:.2f})"
        )
    wall, cpu = statistics.median(wall_ratios), statistics.median(cpu_ratios)
    print(f"median ratio, stage / encode_batch: {wall:.2f} in wall time, {cpu:.2f} in CPU time; 0.9 is asked")


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds and CPU seconds (all threads) of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def run_bare(folder: Path, texts: list[str]) -> None:
    """One `encode_batch` over all texts, with a tokenizer whose cache of words is empty."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.encode_batch(texts, add_special_tokens=False)


def run_stage(folder: Path, source: Path) -> None:
    """The whole stage: reading, encoding, masks, writing, checking."""
    with tempfile.TemporaryDirectory() as out:
        encode_set("pretrain", source, folder, Path(out) / "encoded")


if __name__ == "__main__":
    main()
