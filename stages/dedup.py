"""dedup: drop training documents that repeat another training document or a validation document."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.data.dedup_plots import draw_curves
from llm.data.deduplicate import DedupParams, deduplicate_set
from llm.params import load_params
from llm.runtime import run_stage, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml this stage reads."""

    dedup: DedupParams


def main() -> None:
    """Read the command line and params.yaml, run, write the metrics."""
    cli = ArgumentParser(description=__doc__)
    for flag in ("--input", "--out", "--dropped", "--plots", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    report = deduplicate_set(paths.input, paths.out, paths.dropped, params.dedup)
    draw_curves(paths.plots, params.dedup)
    write_json(paths.metrics, report)


if __name__ == "__main__":
    run_stage(main)
