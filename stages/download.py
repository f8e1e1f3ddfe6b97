"""download: the source of params.yaml -> data/raw/{pretrain,sft,preference,prompts}, split by whole works."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.data.download import DownloadParams, download
from llm.params import load_params
from llm.runtime import run_stage, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    """Sections of params.yaml this stage depends on."""

    seed: int
    download: DownloadParams


def main() -> None:
    """Read flags and params, fetch the text, write the four sets and their counts."""
    cli = ArgumentParser(description=__doc__)
    for flag in ("--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    report = download(params.download, seed=params.seed, out=paths.out)
    write_json(paths.metrics, report)


if __name__ == "__main__":
    run_stage(main)
