"""report: metrics, curves and samples -> the report card: a Markdown table and a page."""

from argparse import ArgumentParser
from pathlib import Path

from llm.report.card import write_card
from llm.report.collect import collect
from llm.runtime import run_stage


def main() -> None:
    """Read the command line, collect what the stages before left, write both forms."""
    cli = ArgumentParser(description=__doc__)
    for flag in ("--out", "--html"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()

    write_card(collect(Path()), markdown=paths.out, html=paths.html)


if __name__ == "__main__":
    run_stage(main)
