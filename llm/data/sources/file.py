"""file: the user's own text: jsonl, parquet and txt files, also compressed with gzip or zstd.

jsonl, parquet   one document a row: a text column, or `messages` [{role, content}]; `work`, `title`, `kind` optional
txt              one document a file, or one between two separator lines
Paths            globs, relative to the repository root; ids tell file name and row, not the folder
"""

import glob
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from llm.data.document import Document
from llm.data.sources.base import Source, to_document

_FORMATS = (".jsonl", ".parquet", ".txt")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """paths: globs. text_column: of jsonl and parquet. separator: a line between the documents of a txt file,
    null = one document a file. max_documents: the first so many. min_chars: shorter ones are left out.
    """

    paths: tuple[str, ...]
    text_column: str = "text"
    separator: str | None = None
    max_documents: int | None = None
    min_chars: int = 1
    kind: str = "text"
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths: empty; name at least one file or glob")
        if self.max_documents is not None and self.max_documents < 2:
            raise ValueError(f"max_documents ({self.max_documents}) must be at least 2, or null for all")


class Row(NamedTuple):
    """One document-to-be and where it stands, for messages."""

    place: str
    value: Any
    work: str = ""
    title: str = ""
    kind: str = ""


class File(Source):
    """Documents of the files that the globs match, files in sorted order."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def documents(self) -> Iterator[Document]:
        return islice(self._all(), self.config.max_documents)

    def _all(self) -> Iterator[Document]:
        config = self.config
        for file_number, path in enumerate(matching_files(config.paths)):
            for number, row in enumerate(read_rows(path, config)):
                try:
                    document = to_document(
                        row.value,
                        id=f"{file_number}-{path.name}/{number}",
                        source=path.name,
                        kind=row.kind or config.kind,
                        licence=config.licence,
                        work=row.work,
                        title=row.title,
                    )
                except ValueError as error:
                    raise ValueError(f"{row.place}: {error}") from None
                if self.long_enough(document, kind=config.kind, min_chars=config.min_chars):
                    yield document


build = File


def matching_files(patterns: Iterable[str]) -> list[Path]:
    """Files that match, sorted, each once. Raises ValueError for a glob without a match or an unknown format."""
    found: set[str] = set()
    for pattern in patterns:
        matches = [name for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
        if not matches:
            raise ValueError(f"download.source.file.paths: '{pattern}' matches no file in {Path.cwd()}")
        found.update(matches)
    paths = [Path(name) for name in sorted(found)]
    for path in paths:
        if _format(path) not in _FORMATS:
            raise ValueError(
                f"{path}: unknown format; known are {', '.join(_FORMATS)}, also with .gz or .zst"
            )
    return paths


def read_rows(path: Path, config: Config) -> Iterator[Row]:
    """All rows of one file. Raises ValueError naming the file when it is damaged."""
    kind = _format(path)
    if kind == ".parquet":
        return _parquet_rows(path, config)
    return _json_rows(path, config) if kind == ".jsonl" else _text_rows(path, config)


def _format(path: Path) -> str:
    """`.jsonl` for `a.jsonl` and for `a.jsonl.zst`."""
    return path.with_suffix("").suffix if path.suffix in (".gz", ".zst") else path.suffix


def _json_rows(path: Path, config: Config) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON ({error}); repair or remove the line") from None
        if not isinstance(record, dict):
            raise ValueError(f"{place}: expected an object, found {type(record).__name__}")
        yield _row(record, place, config)


def _parquet_rows(path: Path, config: Config) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024)
        records = (record for batch in batches for record in batch.to_pylist())
        for number, record in enumerate(records):
            yield _row(record, f"{path}:{number}", config)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: damaged parquet file ({_one_line(error)})") from None


def _row(record: dict[str, Any], place: str, config: Config) -> Row:
    column = config.text_column if config.text_column in record else "messages"
    if column not in record:
        known = ", ".join(sorted(record)) or "none"
        raise ValueError(f"{place}: neither '{config.text_column}' nor 'messages' (columns: {known})")
    work, title, kind = (str(record.get(key) or "") for key in ("work", "title", "kind"))
    return Row(place, record[column], work, title, kind)


def _text_rows(path: Path, config: Config) -> Iterator[Row]:
    lines: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if line.strip() == config.separator:
            yield Row(f"{path}:{number}", "\n".join(lines))
            lines = []
        else:
            lines.append(line)
    if lines:
        yield Row(str(path), "\n".join(lines))


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file, decompressed by its suffix, without their ends; a byte order mark is dropped."""
    rest = b""
    first = True
    try:
        for chunk in _chunks(path):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.removesuffix(b"\r").decode("utf-8-sig" if first else "utf-8")
                first = False
        if rest:
            yield rest.removesuffix(b"\r").decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); convert it first (iconv -t UTF-8)") from None
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path}: damaged or unreadable ({_one_line(error)})") from None


def _chunks(path: Path) -> Iterator[bytes]:
    if path.suffix == ".zst":
        yield from _zstd_chunks(path)
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    """Frame by frame: zstandard's own reader takes a truncated file for a complete one."""
    frame = None
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is cut off")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
