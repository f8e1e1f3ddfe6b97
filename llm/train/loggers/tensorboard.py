"""tensorboard: event files in `<work dir>/logs/tensorboard/<stage>`; look with `tensorboard --logdir`."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.tensorboard import SummaryWriter

from llm.train.loggers.base import Logger, Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields."""


class TensorBoardLogger(Logger):
    """Scalars and texts; steps a resumed run does again are purged."""

    def __init__(self, config: Config, run: Run) -> None:
        folder = run.folder / "tensorboard" / run.stage
        self._writer = SummaryWriter(str(folder), purge_step=run.start + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        self._writer.close()


build = TensorBoardLogger
