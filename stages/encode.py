"""encode: the documents of one set to token ids, offsets and loss masks."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from llm import registry
from llm.data.encode import LAYOUTS, encode_set
from llm.params import Family, load_params
from llm.runtime import run_stage, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    tokenizer: Annotated[Any, Family("llm.tokenizer.algorithms")]


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--set", choices=tuple(LAYOUTS), required=True)
    for flag in ("--input", "--tokenizer", "--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    args = cli.parse_args()

    algorithm = registry.build(load_params(Params).tokenizer)
    write_json(args.metrics, encode_set(args.set, args.input, args.tokenizer, args.out, algorithm))


if __name__ == "__main__":
    run_stage(main)
