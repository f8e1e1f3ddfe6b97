"""analyze: describe the training text before and after cleaning, in numbers, tables and pictures."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.data.analyze import AnalyzeParams, analyze
from llm.params import load_params
from llm.runtime import run_stage, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml this stage reads."""

    analyze: AnalyzeParams


def main() -> None:
    """Read the command line and params.yaml, run, write the metrics."""
    cli = ArgumentParser(description=__doc__)
    for flag in ("--raw", "--clean", "--dropped-dedup", "--dropped-filter", "--plots", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    dropped = {"dedup": paths.dropped_dedup, "filter": paths.dropped_filter}
    report = analyze(paths.raw, paths.clean, dropped, paths.plots, params.analyze)
    write_json(paths.metrics, report)


if __name__ == "__main__":
    run_stage(main)
