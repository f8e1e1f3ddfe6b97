"""sft: teach a base model to answer: fine-tune it on conversations, loss on the answers only."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.params import load_params
from llm.runtime import output_dir, run_stage, set_up_torch, write_csv, write_json
from llm.sft.sft import SftParams, sft, write_tuned

COLUMNS = ("step", "loss", "val_loss", "val_bpb", "grad_norm", "lr_frac")


@dataclass(frozen=True, kw_only=True)
class Params:
    seed: int
    sft: SftParams


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    for flag in ("--base", "--packed", "--encoded", "--out", "--metrics", "--plots"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    set_up_torch(params.seed)
    tuned = sft(paths.base, paths.packed, paths.encoded, params.sft, params.seed)
    with output_dir(paths.out) as folder:
        write_tuned(folder, tuned, params.sft, paths.base / "tokenizer")
    write_csv(paths.plots, COLUMNS, ([row.get(name) for name in COLUMNS] for row in tuned.result.history))
    write_json(paths.metrics, tuned.metrics)
    tuned.result.finish()


if __name__ == "__main__":
    run_stage(main)
