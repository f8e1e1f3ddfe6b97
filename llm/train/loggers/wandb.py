"""wandb: Weights & Biases; offline unless asked for and WANDB_API_KEY is set.

Offline runs lie in `<work dir>/logs/wandb/offline-run-*`: `wandb sync DIR` uploads one later, and
`wandb leet inspect --summary DIR` reads it without a server.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import wandb

from llm.train.loggers.base import Logger, Run, mode


@dataclass(frozen=True, kw_only=True)
class Config:
    """project: name of the project runs are filed under."""

    project: str = "llm-from-scratch"


class WandbLogger(Logger):
    """One run a stage."""

    def __init__(self, config: Config, run: Run) -> None:
        chosen = mode(run.wanted, os.environ.get("WANDB_MODE"), os.environ.get("WANDB_API_KEY"))
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=config.project,
            name=run.stage,
            dir=str(run.folder),
            mode="online" if chosen == "online" else "offline",
            settings=wandb.Settings(console="off", silent=True, init_timeout=30),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: wandb.Table(columns=["step", "text"], data=[[step, text]])}, step=step)

    def close(self) -> None:
        self._run.finish()


build = WandbLogger
