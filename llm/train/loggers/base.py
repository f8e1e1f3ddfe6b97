"""base: the interface of a tracking backend.

A backend is built as `build(config, run)` and may raise whatever it likes: the facade (`llm.train.tracking`)
turns any error into one warning and goes on without that backend. The package a backend needs is imported
by its own file alone.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Run:
    """stage: name of the run; folder: where a backend may write; start: step the run begins or resumes at;
    wanted: the `mode` of the `track` section (`offline`, `online` or `auto`)."""

    stage: str
    folder: Path
    start: int
    wanted: str


class Logger:
    """Receives numbers and texts by step."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    @abstractmethod
    def text(self, step: int, name: str, text: str) -> None:
        """A text of one step, for example samples."""

    @abstractmethod
    def close(self) -> None:
        """Flush and release; called once."""


def mode(wanted: str, environment: str | None, key: str | None) -> str:
    """`online` only when it is asked for *and* a key is there, else `offline`: no login, no network, no prompt.

    wanted: the `mode` of the `track` section; `auto` leaves the question to the backend's own variable.
    """
    asked = environment if wanted == "auto" else wanted
    return "online" if asked == "online" and key else "offline"
