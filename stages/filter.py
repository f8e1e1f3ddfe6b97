"""filter: normalise the training documents, drop the ones no model should learn from, mask private data."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.data.filter import FilterParams, filter_set
from llm.params import load_params
from llm.runtime import run_stage, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml this stage reads."""

    filter: FilterParams


def main() -> None:
    """Read the command line and params.yaml, run, write the metrics."""
    cli = ArgumentParser(description=__doc__)
    for flag in ("--input", "--out", "--dropped", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    cli.add_argument(
        "--references", type=Path, help="raw sets the benchmarks are made of, for decontamination"
    )
    paths = cli.parse_args()
    params = load_params(Params)

    report = filter_set(paths.input, paths.out, paths.dropped, params.filter, paths.references)
    write_json(paths.metrics, report)


if __name__ == "__main__":
    run_stage(main)
