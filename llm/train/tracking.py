"""tracking: one facade over the tracking backends, which may fail without the run noticing.

The `track` section of params.yaml chooses them; it is no param of any stage, because changing the logger must
not retrain a model:

    track:
      backends: [jsonl, wandb]     # jsonl is always on; any kinds of llm/train/loggers
      mode: offline                # offline | online | auto; online needs a key too, else it is offline

What a backend cannot do (missing package, no network, full disk) costs one warning and that backend.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llm import registry, runtime
from llm.params import ParamsError, read_yaml
from llm.train.loggers.base import Logger, Run

_FAMILY = "llm.train.loggers"
_MODES = ("offline", "online", "auto")


@dataclass(frozen=True)
class Settings:
    """What the `track` section says, after everything unusable has been dropped with a warning."""

    backends: tuple[str, ...] = ("jsonl",)
    mode: str = "offline"


def read_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read the `track` section; whatever is wrong with it costs a warning, never the run."""
    try:
        section = read_yaml(path).get("track", {}) if path.exists() else {}
    except ParamsError as error:
        warn(str(error))
        section = {}
    section = section if isinstance(section, dict) else {}
    names, chosen = section.get("backends", []), section.get("mode", "offline")
    names = names if isinstance(names, list) else [names]
    known = registry.kinds(_FAMILY)
    for name in names:
        if name not in known:
            warn(f"track.backends: {name!r} is not one of {', '.join(known)}; left out")
    if chosen not in _MODES:
        warn(f"track.mode: {chosen!r} is not one of {', '.join(_MODES)}; using offline")
        chosen = "offline"
    return Settings(tuple(dict.fromkeys(["jsonl", *(name for name in names if name in known)])), chosen)


class Tracker:
    """Sends numbers and texts to every backend that still works; a context manager."""

    def __init__(self, stage: str, *, start: int, settings: Settings | None = None) -> None:
        settings = settings or read_settings()
        self._loggers: dict[str, Logger] = {}
        if os.environ.get("RANK", "0") != "0":  # in a multi-process run only the first process reports
            return
        run = Run(stage=stage, folder=runtime.work_dir() / "logs", start=start, wanted=settings.mode)
        for name in settings.backends:
            self._guard(name, lambda name=name: self._open(name, run))  # type: ignore[misc]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        for name, logger in list(self._loggers.items()):
            self._guard(name, lambda logger=logger: logger.log(step, values))  # type: ignore[misc]

    def text(self, step: int, name: str, text: str) -> None:
        """A text of one step."""
        for backend, logger in list(self._loggers.items()):
            self._guard(backend, lambda logger=logger: logger.text(step, name, text))  # type: ignore[misc]

    def close(self) -> None:
        """Close every backend."""
        for name, logger in list(self._loggers.items()):
            self._guard(name, logger.close)
        self._loggers.clear()

    @property
    def backends(self) -> list[str]:
        """Names of the backends that still work."""
        return list(self._loggers)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, name: str, run: Run) -> None:
        module = registry.module(_FAMILY, name)
        self._loggers[name] = module.build(module.Config(), run)

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        """Run `call`; any error of the backend disables it with one warning."""
        try:
            call()
        except Exception as error:  # a tracker's failure is never the run's
            self._loggers.pop(name, None)
            warn(f"{name} is off for this run ({' '.join(str(error).split())[:160] or type(error).__name__})")


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"track: {message}", file=sys.stderr)
