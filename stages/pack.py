"""pack: encoded documents of one set to training rows of seq_len + 1 tokens."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.data.pack import PackParams, pack_set
from llm.params import load_params
from llm.runtime import run_stage, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    seed: int
    pack: PackParams


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    for flag in ("--input", "--tokenizer", "--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    cli.add_argument("--set", choices=("pretrain", "sft"), required=True)
    args = cli.parse_args()
    params = load_params(Params)

    report = pack_set(
        args.set, args.input / "train", args.out, params.pack, tokenizer=args.tokenizer, seed=params.seed
    )
    write_json(args.metrics, report)


if __name__ == "__main__":
    run_stage(main)
