"""dedup_corpus: what de-duplication keeps of every document, and how it gets a text back when it needs one.

Texts are read once, batch by batch, on all processes, and let go; signatures stay. Memory grows with the
number of documents, never with their length: docs/data/dedup_corpus.md counts the bytes.

Shapes      N documents: validation first, then train, each in the order of its file; W numbers in a signature
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llm.data.dedup.base import Dedup, Texts
from llm.data.document import Document, Lines, read_lines
from llm.data.paragraphs.base import Paragraphs
from llm.data.parallel import map_batches
from llm.data.spool import Spool
from llm.runtime import progress

B = TypeVar("B")
R = TypeVar("R")

Ints = NDArray[np.int64]

_SMALL_BYTES = 1 << 26  # a set below this is read by the running process: starting others would take longer


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A batch of documents without its texts. line_bytes: of each line; signatures: of each method by its slot."""

    ids: list[bytes]
    chars: Ints
    line_bytes: Ints
    signatures: dict[str, NDArray[Any]]
    hashes: NDArray[np.uint64]  # of the paragraphs that may be removed, document after document
    n_hashes: Ints  # of each document


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All documents, `n_validation` of validation first. texts: row -> text. The rest as in `Facts`."""

    n_validation: int
    ids: "Ids"
    chars: Ints
    texts: Texts
    signatures: dict[str, NDArray[Any]]
    hashes: NDArray[np.uint64]
    n_hashes: Ints
    scratch: Path | None = None  # where large arrays may lie

    def best_first(self) -> Ints:
        """Rows by the keep-policy: validation before train, then longest first, then by id."""
        is_train = np.arange(len(self.chars)) >= self.n_validation
        order = np.lexsort((-self.chars, is_train))
        keys = np.stack([is_train[order], self.chars[order]])
        borders = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
        starts, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
        for tie in np.flatnonzero(ends - starts > 1).tolist():
            group = order[starts[tie] : ends[tie]]
            order[starts[tie] : ends[tie]] = sorted(group.tolist(), key=self.ids.__getitem__)
        return order

    def require_unique_ids(self, source: Path) -> None:
        """Raise ValueError where an id occurs twice: a dropped document would take its namesake along."""
        n_rows = len(self.ids)
        hashes = np.fromiter((hash(self.ids[row]) for row in range(n_rows)), dtype=np.int64, count=n_rows)
        values, counts = np.unique(hashes, return_counts=True)
        rows = np.flatnonzero(np.isin(hashes, values[counts > 1]))
        names = Counter(self.ids[row] for row in rows.tolist())
        name, count = max(names.items(), key=lambda item: item[1], default=(b"", 1))
        if count > 1:
            raise ValueError(
                f"{source}: document id '{name.decode('utf-8', 'replace')}' occurs {count} times; "
                "ids must be unique, fix the source"
            )


def corpus_of_files(
    validation: Path, train: Path, methods: Mapping[str, Dedup], paragraphs: Paragraphs, scratch: Path
) -> Corpus:
    """Read both files. Raises ValueError for a line that is no document."""
    run = mapper(validation, train)
    for method in methods.values():
        if method.needs_fit:
            lines = chain(read_lines(validation), read_lines(train))
            method.fit(run(partial(show_lines, method=method), lines))
    work = partial(look_at_lines, methods=methods, paragraphs=paragraphs)
    facts = run(work, chain(read_lines(validation), read_lines(train)))
    rows = _Rows(methods, scratch)
    for batch in progress(facts, f"dedup {', '.join(methods)}"):
        rows.add(batch)
    starts = np.cumsum(rows.line_bytes()) - rows.line_bytes()
    n_bytes = validation.stat().st_size
    n_validation = int(np.searchsorted(starts, n_bytes))
    starts[n_validation:] -= n_bytes
    return rows.corpus(n_validation, TextsOfFiles((validation, train), n_validation, starts))


def mapper(*paths: Path) -> Callable[[Callable[[B], R], Iterable[B]], Iterable[R]]:
    """`map_batches`, or plain `map` where there is too little to start processes for."""
    n_bytes = sum(path.stat().st_size for path in paths if path.exists())
    return map if n_bytes <= _SMALL_BYTES else map_batches


def corpus_of_documents(
    validation: Sequence[Document],
    train: Sequence[Document],
    methods: Mapping[str, Dedup],
    paragraphs: Paragraphs,
) -> Corpus:
    """The same for documents that are all there at once."""
    documents = [*validation, *train]
    for method in methods.values():
        if method.needs_fit:
            method.fit([method.look([document.text for document in documents])])
    rows = _Rows(methods, None)
    rows.add(look_at(documents, methods=methods, paragraphs=paragraphs))
    return rows.corpus(len(validation), [document.text for document in documents])


def show_lines(lines: Lines, *, method: Dedup) -> Ints:
    """What a method that needs the corpus must know of a piece of a file."""
    return method.look([document.text for document in lines.documents()])


def look_at_lines(lines: Lines, *, methods: Mapping[str, Dedup], paragraphs: Paragraphs) -> Facts:
    """Parse a piece of a file and keep what is needed of it."""
    sizes = [len(line) for line in lines.lines]
    return look_at(lines.documents(), methods=methods, paragraphs=paragraphs, line_bytes=sizes)


def look_at(
    documents: Iterable[Document],
    *,
    methods: Mapping[str, Dedup],
    paragraphs: Paragraphs,
    line_bytes: Sequence[int] = (),
) -> Facts:
    """Signatures and paragraph hashes of a batch."""
    documents = list(documents)
    texts = [document.text for document in documents]
    hashes = [paragraphs.hashes(text) for text in texts]
    return Facts(
        ids=[document.id.encode("utf-8", "surrogatepass") for document in documents],
        chars=np.array([len(text) for text in texts], dtype=np.int64),
        line_bytes=np.array(line_bytes, dtype=np.int64),
        signatures={slot: method.signatures(texts) for slot, method in methods.items()},
        hashes=np.concatenate([np.zeros(0, dtype=np.uint64), *hashes]),
        n_hashes=np.array([len(some) for some in hashes], dtype=np.int64),
    )


class _Rows:
    """Batches of facts, put together."""

    def __init__(self, methods: Mapping[str, Dedup], scratch: Path | None) -> None:
        self.scratch = scratch
        self.ids = Ids()
        self.numbers = {name: Spool(scratch) for name in ("chars", "line_bytes", "n_hashes")}
        self.signatures = {slot: Spool(scratch) for slot in methods}
        self.hashes = Spool(scratch)
        self.add(look_at([], methods=methods, paragraphs=Paragraphs()))

    def add(self, batch: Facts) -> None:
        self.ids.extend(batch.ids)
        for name, spool in self.numbers.items():
            spool.append(getattr(batch, name))
        for slot, spool in self.signatures.items():
            spool.append(batch.signatures[slot])
        self.hashes.append(batch.hashes)

    def line_bytes(self) -> Ints:
        return self.numbers["line_bytes"].array()

    def corpus(self, n_validation: int, texts: Texts) -> Corpus:
        return Corpus(
            n_validation=n_validation,
            ids=self.ids,
            chars=self.numbers["chars"].array(),
            texts=texts,
            signatures={slot: spool.array() for slot, spool in self.signatures.items()},
            hashes=self.hashes.array(),
            n_hashes=self.numbers["n_hashes"].array(),
            scratch=self.scratch,
        )


class Ids:
    """Many short byte strings in one block: a number each instead of an object each."""

    def __init__(self) -> None:
        self._block = bytearray()
        self._ends = bytearray()  # of int64

    def extend(self, names: Iterable[bytes]) -> None:
        """Add them at the end."""
        for name in names:
            self._block += name
            self._ends += len(self._block).to_bytes(8, "little")

    def __len__(self) -> int:
        return len(self._ends) // 8

    def __getitem__(self, row: int) -> bytes:
        if not 0 <= row < len(self):
            raise IndexError(row)
        start = int.from_bytes(self._ends[8 * row - 8 : 8 * row], "little") if row else 0
        return bytes(self._block[start : int.from_bytes(self._ends[8 * row : 8 * row + 8], "little")])


class TextsOfFiles:
    """The texts of two files, each read when it is asked for."""

    def __init__(self, paths: tuple[Path, Path], n_first: int, starts_N: Ints) -> None:
        self._paths = paths
        self._n_first = n_first
        self._starts_N = starts_N

    def __len__(self) -> int:
        return len(self._starts_N)

    def __getitem__(self, row: int) -> str:
        with open(self._paths[int(row >= self._n_first)], "rb") as handle:
            handle.seek(int(self._starts_N[row]))
            text: str = json.loads(handle.readline().decode("utf-8")).get("text", "")
        return text


class Picked:
    """Some rows of a sequence of texts, in an order of their own."""

    def __init__(self, texts: Texts, rows_N: Ints) -> None:
        self._texts = texts
        self._rows_N = rows_N

    def __len__(self) -> int:
        return len(self._rows_N)

    def __getitem__(self, row: int) -> str:
        return self._texts[int(self._rows_N[row])]
