"""encode: the speed of the encode stage beside `tokenizers.encode_batch` alone on the same texts.

    python -m benchmarks.encode --input data/clean --tokenizer models/tokenizer

The two alternate, so that a busy machine slows both. The stage reads JSONL, encodes, and writes tokens, masks,
offsets and records; the bare call gets the texts ready in memory and throws its result away.
"""

import statistics
import tempfile
import time
from argparse import ArgumentParser
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
    ratios = []
    for number in range(args.rounds):
        bare, stage = seconds_bare(args.tokenizer, texts), seconds_stage(args.tokenizer, args.input)
        ratios.append(bare / stage)
        print(
            f"round {number}: encode_batch {megabytes / bare:6.2f} MB/s, "
            f"encode stage {megabytes / stage:6.2f} MB/s, ratio {ratios[-1]:.2f}"
        )
    print(f"median ratio {statistics.median(ratios):.2f} (stage / encode_batch; 0.9 is asked)")


def seconds_bare(folder: Path, texts: list[str]) -> float:
    """Seconds of one `encode_batch` over all texts, with a tokenizer whose cache of words is empty."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    t0 = time.perf_counter()
    backend.encode_batch(texts, add_special_tokens=False)
    return time.perf_counter() - t0


def seconds_stage(folder: Path, source: Path) -> float:
    """Seconds of the whole stage: reading, encoding, masks, writing, checking."""
    with tempfile.TemporaryDirectory() as out:
        t0 = time.perf_counter()
        encode_set("pretrain", source, folder, Path(out) / "encoded")
        return time.perf_counter() - t0


if __name__ == "__main__":
    main()
