"""align: move a fine-tuned model towards what is preferred (DPO) or rewarded (GRPO), as align.kind says."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from llm import registry
from llm.align.align import align, curve
from llm.nn.io import save_model
from llm.params import Family, load_params
from llm.runtime import output_dir, run_stage, set_up_torch, write_csv, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    seed: int
    align: Annotated[Any, Family("llm.align.methods", nested=True)]


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    for flag in ("--sft", "--preference", "--prompts", "--out", "--metrics", "--plots"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    set_up_torch(params.seed)
    model, result, metrics = align(paths.sft, paths.preference, paths.prompts, params.align, params.seed)
    with output_dir(paths.out) as folder:
        extra = {"align": registry.kind_of(params.align)}
        save_model(folder, model, stage="align", tokenizer=paths.sft / "tokenizer", extra=extra)
    write_csv(paths.plots, *curve(result))
    write_json(paths.metrics, metrics)
    result.finish()


if __name__ == "__main__":
    run_stage(main)
