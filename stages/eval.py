"""eval: one model through every evaluation task, with its records kept example by example."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.eval.harness import EvalParams, evaluate
from llm.params import load_params
from llm.runtime import run_stage, set_up_torch, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml this stage reads."""

    seed: int
    eval: EvalParams


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--name", required=True, help="what the model is called in progress bars")
    for flag in ("--model", "--raw", "--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    args = cli.parse_args()
    params = load_params(Params)
    set_up_torch(params.seed)

    metrics = evaluate(args.name, args.model, args.raw, args.out, params=params.eval, seed=params.seed)
    write_json(args.metrics, metrics)


if __name__ == "__main__":
    run_stage(main)
