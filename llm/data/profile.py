"""profile: what is known of the documents of one kind, counted batch by batch and put together in order.

Words, lengths, vocabulary growth, scripts, repeated lines and n-grams. Batches are counted on all processes;
only counts come back, so memory is bounded but for 44 bytes a document, and never grows with the text. Up to
`MAX_TYPES` different words everything is exact (llm/data/distinct.py). Equal numbers for any number of processes.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from llm.data.distinct import Hashes, Types
from llm.data.document import Document
from llm.data.ngrams import Frequent, Ints, Listed, most_repeated, repeated_share, repeats
from llm.data.parallel import map_batches
from llm.data.script import Language, Script, language_of, letters
from llm.data.words import without_speakers, words
from llm.runtime import progress

ALL = "all"
BATCH_CHARS = 1 << 20
MAX_TYPES = 200_000
LISTED = 2000  # n-grams of each length that a batch reports, and a tenth of what is remembered of a corpus
_SEPARATORS = {"lines": "\n", "paragraphs": "\n\n"}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One kind of document in one batch.

    types: the distinct words by first occurrence. first: where each stands first. occurrences: of each.
    lengths: words of each document. repeated: share of repeated n-grams, a row for each document.
    blocks: a hash for each line and paragraph. listed: n -> the most frequent n-grams.
    """

    text_bytes: int
    types: list[str]
    first: Ints
    occurrences: Ints
    lengths: Ints
    letters: Counter[Script]
    languages: Counter[Language]
    repeated: NDArray[np.float32]
    blocks: dict[str, NDArray[np.uint64]]
    listed: dict[int, Listed]


@dataclass(frozen=True, kw_only=True)
class BatchCounts:
    """Counts by kind; types and first as in `Counts`, of all kinds together."""

    kinds: dict[str, Counts]
    types: list[str]
    first: Ints


@dataclass(kw_only=True)
class Profile:
    """All batches of one kind. types: its words. lengths: words of each document."""

    max_n: int
    max_types: int = MAX_TYPES
    text_bytes: int = 0
    compressed_bytes: int = 0
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    letters: Counter[Script] = field(default_factory=Counter)
    languages: Counter[Language] = field(default_factory=Counter)
    repeated: list[NDArray[np.float32]] = field(default_factory=list)
    blocks: dict[str, Hashes] = field(default_factory=lambda: {name: Hashes() for name in _SEPARATORS})
    frequent: dict[int, Frequent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.types = Types(self.max_types)

    @property
    def docs(self) -> int:
        return len(self.lengths)

    def add(self, batch: Counts) -> None:
        """Take in the next batch of this kind, whose words were met (`Types.meet`)."""
        self.text_bytes += batch.text_bytes
        self.lengths.extend(batch.lengths.tolist())
        self.letters.update(batch.letters)
        self.languages.update(batch.languages)
        self.repeated.append(batch.repeated)
        for name, hashes in batch.blocks.items():
            self.blocks[name].add(hashes)
        for n, listed in batch.listed.items():
            self.frequent.setdefault(n, Frequent(10 * LISTED)).add(listed)
        self.types.count(batch.types, batch.occurrences.tolist())

    def repeated_share(self) -> NDArray[np.float32]:
        """Share of repeated n-grams of each document. Shape (documents, max_n - 1)."""
        return np.concatenate(self.repeated) if self.repeated else np.zeros((0, self.max_n - 1), np.float32)

    def duplicate_share(self, name: str) -> float:
        """Share of the lines or paragraphs that occurred before, in any document."""
        blocks = self.blocks[name]
        return 1.0 - blocks.distinct() / blocks.total if blocks.total else 0.0


def profiles(
    documents: Iterable[Document],
    label: str,
    *,
    max_n: int = 10,
    listed_n: tuple[int, ...] = (2, 3, 5, 10),
    batch_chars: int = BATCH_CHARS,
    max_types: int = MAX_TYPES,
) -> dict[str, Profile]:
    """One profile for each kind, sorted by name, and one for all together; the documents are read once, in order."""
    found: dict[str, Profile] = {}
    together = Profile(max_n=max_n, max_types=max_types)
    packers: dict[str, _Packer] = {}
    read = _packed(progress(documents, f"analyze {label}"), packers)
    count = partial(count_batch, max_n=max_n, listed_n=listed_n)
    for batch in map_batches(count, batches(read, batch_chars)):
        n_words = sum(int(counts.lengths.sum()) for counts in batch.kinds.values())
        together.types.meet(batch.types, batch.first.tolist(), n_words)
        for kind, counts in batch.kinds.items():
            profile = found.setdefault(kind, Profile(max_n=max_n, max_types=max_types))
            profile.types.meet(counts.types, counts.first.tolist(), int(counts.lengths.sum()))
            profile.add(counts)
            profile.types.settle()
            together.add(counts)
        together.types.settle()
    for kind, packer in packers.items():
        found[kind].compressed_bytes = packer.close()
    together.compressed_bytes = sum(profile.compressed_bytes for profile in found.values())
    return {kind: found[kind] for kind in sorted(found)} | {ALL: together}


def batches(documents: Iterable[Document], n_chars: int) -> Iterator[list[Document]]:
    """Neighbouring documents of at least `n_chars` characters together."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= n_chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def count_batch(batch: list[Document], *, max_n: int, listed_n: tuple[int, ...]) -> BatchCounts:
    """Count everything there is to count in one batch."""
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    in_order: list[str] = []
    for document in batch:
        found = words(document.text)
        groups.setdefault(document.kind, []).append((document.text, found))
        in_order += found
    kinds = {kind: _count(members, max_n, listed_n) for kind, members in groups.items()}
    if len(kinds) == 1:
        (only,) = kinds.values()
        return BatchCounts(kinds=kinds, types=only.types, first=only.first)
    types, ids = _numbered(in_order)
    return BatchCounts(kinds=kinds, types=types, first=np.unique(ids, return_index=True)[1])


def _count(members: list[tuple[str, list[str]]], max_n: int, listed_n: tuple[int, ...]) -> Counts:
    lengths = np.array([len(found) for _, found in members], dtype=np.int64)
    types, ids = _numbered([word for _, found in members for word in found])
    _, first, occurrences = np.unique(ids, return_index=True, return_counts=True)
    document = np.repeat(np.arange(len(members)), lengths)
    listed = {
        found.n: most_repeated(found, types, ids, LISTED)
        for found in repeats(ids, document, max(listed_n), within=False)
        if found.n in listed_n
    }
    scripts = [letters(text) for text, _ in members]
    return Counts(
        text_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text, _ in members),
        types=types,
        first=first,
        occurrences=occurrences,
        lengths=lengths,
        letters=sum(scripts, Counter()),
        languages=Counter(map(language_of, scripts)),
        repeated=repeated_share(ids, document, len(members), max_n).astype(np.float32),
        blocks={name: _hashes((text for text, _ in members), mark) for name, mark in _SEPARATORS.items()},
        listed=listed,
    )


def _numbered(found: list[str]) -> tuple[list[str], Ints]:
    """The distinct words in the order in which they come, and the number of each word."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(found))}
    return list(numbers), np.fromiter(map(numbers.__getitem__, found), dtype=np.int64, count=len(found))


def _hashes(texts: Iterable[str], separator: str) -> NDArray[np.uint64]:
    """64 bits for each piece between separators that is not empty; speaker marks and outer white space do not count."""
    pieces = (piece.strip() for text in texts for piece in without_speakers(text).split(separator))
    data = b"".join(
        blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8).digest() for piece in pieces if piece
    )
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


class _Packer:
    """zlib over a stream of texts, of which only the size is kept."""

    def __init__(self) -> None:
        self.packer, self.size = zlib.compressobj(6), 0

    def add(self, text: str) -> None:
        self.size += len(self.packer.compress(text.encode("utf-8", "surrogatepass")))

    def close(self) -> int:
        return self.size + len(self.packer.flush())


def _packed(documents: Iterable[Document], packers: dict[str, _Packer]) -> Iterator[Document]:
    """Pass the documents on; the texts of each kind go through its packer on the way."""
    for document in documents:
        packers.setdefault(document.kind, _Packer()).add(document.text)
        yield document
