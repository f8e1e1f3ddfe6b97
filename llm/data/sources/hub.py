"""hub: any text data set of the Hugging Face hub, through `datasets`, streamed or downloaded.

What         one column of text (or of messages) becomes the documents; further data sets may hold
             ready-made conversations (`sft`) and pairs (`preference`), otherwise both are made from the text
Cache        inside the work folder, unless HF_HOME says otherwise
Offline      fails with one line; nothing else is downloaded instead
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llm.data.document import Document
from llm.data.sources.base import ReadySet, Source, preference_document, sft_document, to_document
from llm.runtime import work_dir


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """One data set: its path and config name on the hub, split, and how many rows of it.

    column: where the conversations are (sft); pairs always come from `chosen`, `rejected` and `prompt`.
    """

    path: str
    split: str
    name: str | None = None
    column: str = "messages"
    streaming: bool = True
    max_documents: int | None = None
    licence: str = "unknown"

    def __post_init__(self) -> None:
        _check_limit(self.max_documents)


@dataclass(frozen=True, kw_only=True)
class Config:
    """path, name, split: as in `load_dataset(path, name, split=split)`; path may be a local folder.

    streaming: read rows as they come instead of downloading whole files first.
    max_documents: the first so many rows. min_chars: shorter texts are left out.
    """

    path: str
    split: str
    name: str | None = None
    text_column: str = "text"
    streaming: bool = True
    max_documents: int | None = None
    min_chars: int = 1
    kind: str = "text"
    licence: str = "unknown"
    sft: HubSet | None = None
    preference: HubSet | None = None

    def __post_init__(self) -> None:
        _check_limit(self.max_documents)


class Hub(Source):
    """Rows of a data set as documents; a row is its own work."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def documents(self) -> Iterator[Document]:
        config = self.config
        table = HubSet(
            path=config.path,
            name=config.name,
            split=config.split,
            streaming=config.streaming,
            max_documents=config.max_documents,
        )
        for place, row in _rows(table):
            value = _cell(row, config.text_column, place)
            document = to_document(
                value, id=place, source=_short_name(table), kind=config.kind, licence=config.licence
            )
            if self.long_enough(document, kind=config.kind, min_chars=config.min_chars):
                yield document

    def ready(self, name: ReadySet) -> Iterator[Document] | None:
        table = self.config.sft if name == "sft" else self.config.preference
        return _ready(table, name) if table else None


build = Hub


def _ready(table: HubSet, name: ReadySet) -> Iterator[Document]:
    for place, row in _rows(table):
        try:
            if name == "sft":
                messages = _cell(row, table.column, place)
                yield sft_document(messages, id=place, source=_short_name(table), licence=table.licence)
            else:
                yield preference_document(row, id=place, source=_short_name(table), licence=table.licence)
        except ValueError as error:
            raise ValueError(f"download.source.hub.{name}: {place}: {error}") from None


def _rows(table: HubSet) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, row) of the first `max_documents` rows. Raises ValueError in one line for anything that goes wrong."""
    try:
        rows = enumerate(islice(iter(_load(table)), table.max_documents))
    except Exception as error:  # the library's own, HTTP and file system errors have no common base
        raise _failure(table, error) from error
    while True:
        try:
            number, row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _failure(table, error) from error
        yield f"{_short_name(table)}/{number}", row


def _load(table: HubSet) -> Any:
    home = Path(os.environ.setdefault("HF_HOME", str((work_dir() / "huggingface").absolute())))
    from datasets import load_dataset  # after HF_HOME: the library reads it when it is imported

    cache = None if table.streaming else str(home / "datasets")
    return load_dataset(table.path, table.name, split=table.split, streaming=table.streaming, cache_dir=cache)


def _failure(table: HubSet, error: Exception) -> ValueError:
    name = f"'{table.path}'" + (f" ({table.name})" if table.name else "")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    reason = reason if len(reason) <= 200 else reason[:197] + "..."
    return ValueError(
        f"download.source.hub: cannot read {name}, split '{table.split}': {reason}; "
        "check the network and the spelling, or choose download.source.kind registry or file"
    )


def _cell(row: dict[str, Any], column: str, place: str) -> Any:
    if column not in row:
        raise ValueError(
            f"download.source.hub: {place}: no column '{column}'; columns are {', '.join(sorted(row))}"
        )
    return row[column]


def _short_name(table: HubSet) -> str:
    """`roneneldan/TinyStories` as it is; of a local folder its last name: ids must not tell where it lies."""
    return Path(table.path).name if Path(table.path).exists() else table.path


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 2:
        raise ValueError(f"max_documents ({limit}) must be at least 2, or null for all")
