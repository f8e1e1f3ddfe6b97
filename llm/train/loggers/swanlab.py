"""swanlab: SwanLab; offline unless asked for and SWANLAB_API_KEY is set.

Offline runs lie in `<work dir>/logs/swanlab/run-*`; `swanlab sync DIR` uploads one later.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import swanlab

from llm.train.loggers.base import Logger, Run, mode


@dataclass(frozen=True, kw_only=True)
class Config:
    """project: name of the project runs are filed under."""

    project: str = "llm-from-scratch"


class SwanlabLogger(Logger):
    """One run a stage."""

    def __init__(self, config: Config, run: Run) -> None:
        chosen = mode(run.wanted, os.environ.get("SWANLAB_MODE"), os.environ.get("SWANLAB_API_KEY"))
        folder = run.folder / "swanlab"
        folder.mkdir(parents=True, exist_ok=True)
        self._run = swanlab.init(
            project=config.project,
            experiment_name=run.stage,
            log_dir=str(folder),
            mode="online" if chosen == "online" else "offline",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        swanlab.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        swanlab.log({name: swanlab.Text(text)}, step=step)

    def close(self) -> None:
        swanlab.finish()


build = SwanlabLogger
