"""jsonl: one JSON line a logged step, in `<work dir>/logs/<stage>.jsonl`; always on.

A resumed run drops the lines of steps it will do again, so that the file reads as if nothing had happened.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.runtime import atomic_file
from llm.train.loggers.base import Logger, Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields."""


class JsonlLogger(Logger):
    """Appends lines {"step": …, name: value, …}; follow it with `tail -f`."""

    def __init__(self, config: Config, run: Run) -> None:
        path = run.folder / f"{run.stage}.jsonl"
        kept = [line for line in _lines(path) if line["step"] <= run.start] if run.start else []
        with atomic_file(path) as handle:
            handle.writelines(_dump(line) for line in kept)
        self._handle = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed in close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._handle.write(_dump({"step": step, **values}))

    def text(self, step: int, name: str, text: str) -> None:
        self._handle.write(_dump({"step": step, name: text}))

    def close(self) -> None:
        self._handle.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an earlier run; a last line cut short by a crash is no line."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


build = JsonlLogger
