"""encode: the documents of one set to token ids, offsets and loss masks."""

from argparse import ArgumentParser
from pathlib import Path

from llm.data.encode import LAYOUTS, encode_set
from llm.runtime import run_stage, write_json


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--set", choices=tuple(LAYOUTS), required=True)
    for flag in ("--input", "--tokenizer", "--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    args = cli.parse_args()

    write_json(args.metrics, encode_set(args.set, args.input, args.tokenizer, args.out))


if __name__ == "__main__":
    run_stage(main)
