"""tokenizers: the kinds written by hand beside the library's, in training and in encoding.

    python -m benchmarks.tokenizers --input data/clean --families bpe wordpiece unigram

One thread for both. The two of a family alternate, each run in a process of its own, so that a busy machine
slows both and nobody finds a cache that is warm. Training is from texts in memory to a tokenizer folder,
encoding from texts in memory to lists of ids; a fast kind starts with an empty cache of words.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from llm import registry
from llm.data.document import read_documents
from llm.params import from_dict
from llm.tokenizer.algorithms.base import Algorithm, train_tokenizer
from llm.tokenizer.base import load_tokenizer

FAMILY = "llm.tokenizer.algorithms"


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--input", type=Path, default=Path("data/clean"))
    cli.add_argument("--families", nargs="+", default=["bpe", "wordpiece", "unigram"])
    cli.add_argument("--vocab-size", type=int, default=4096)
    cli.add_argument("--rounds", type=int, default=5)
    args = cli.parse_args()

    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    source = args.input / "train.jsonl"
    megabytes = sum(len(text.encode()) for text in read_texts(source)) / 1e6
    print(
        f"{megabytes:.1f} MB, vocabulary of {args.vocab_size}; CPU seconds of one thread, medians of {args.rounds}"
    )
    print("| family | training: library | own | own / library | encoding: library | own | own / library |")
    print("|---|---|---|---|---|---|---|")
    for family in args.families:
        compare(family, args.vocab_size, source, megabytes, args.rounds)


def compare(family: str, vocab_size: int, source: Path, megabytes: float, rounds: int) -> None:
    """Time a family's two kinds in turn and print one row; ratios are medians of the ratios of each round."""
    kinds = (family, f"{family}_fast")
    trained: dict[str, list[float]] = {kind: [] for kind in kinds}
    encoded: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for kind in kinds:
                trained[kind].append(in_new_process(train, kind, vocab_size, source, Path(folder) / kind))
            for kind in kinds:
                encoded[kind].append(in_new_process(encode, kind, vocab_size, source, Path(folder) / kind))
    library, own = (statistics.median(trained[kind]) for kind in kinds)
    slower = statistics.median(b / a for a, b in zip(*trained.values(), strict=True))
    faster = statistics.median(a / b for a, b in zip(*encoded.values(), strict=True))
    speeds = [megabytes / statistics.median(encoded[kind]) for kind in kinds]
    print(
        f"| {family} | {library:.2f} s | {own:.2f} s | {slower:.2f} | "
        f"{speeds[0]:.2f} MB/s | {speeds[1]:.2f} MB/s | {faster:.2f} |",
        flush=True,
    )


def in_new_process(work: Callable[..., float], *args: Any) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def train(kind: str, vocab_size: int, source: Path, folder: Path) -> float:
    texts = read_texts(source)
    start = time.process_time()
    train_tokenizer(algorithm(kind, vocab_size), texts, folder, str(source))
    return time.process_time() - start


def encode(kind: str, vocab_size: int, source: Path, folder: Path) -> float:
    texts = read_texts(source)
    encoder = algorithm(kind, vocab_size).encoder(load_tokenizer(folder))
    start = time.process_time()
    encoder.encode_batch(texts)
    return time.process_time() - start


def algorithm(kind: str, vocab_size: int) -> Algorithm:
    config = {"vocab_size": vocab_size, "min_frequency": 2, "special_tokens": []}
    return registry.build(from_dict(registry.module(FAMILY, kind).Config, config, kind))


def read_texts(source: Path) -> list[str]:
    return [document.text for document in read_documents(source)]


if __name__ == "__main__":
    main()
