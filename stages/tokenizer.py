"""tokenizer: learn a vocabulary from the training split and measure it on both splits."""

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from llm import registry
from llm.data.document import SPLITS, read_documents
from llm.params import Family, load_params
from llm.runtime import output_dir, progress, run_stage, write_json
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.languages import measure_languages
from llm.tokenizer.quality import measure


@dataclass(frozen=True, kw_only=True)
class Params:
    tokenizer: Annotated[Any, Family("llm.tokenizer.algorithms")]


def texts(path: Path, label: str) -> Iterator[str]:
    for document in progress(read_documents(path), label):
        yield document.text


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    for flag in ("--input", "--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    algorithm = registry.build(params.tokenizer)
    train = paths.input / "train.jsonl"
    with output_dir(paths.out) as folder:
        tokenizer = train_tokenizer(algorithm, texts(train, "learn"), folder, str(train))
        measured = {
            split: measure(tokenizer, texts(paths.input / f"{split}.jsonl", split)) for split in SPLITS
        }
        languages = measure_languages(
            tokenizer, texts(paths.input / "validation.jsonl", "validation by language")
        )
    write_json(paths.metrics, {"vocab_size": tokenizer.vocab_size, **measured, "languages": languages})


if __name__ == "__main__":
    run_stage(main)
