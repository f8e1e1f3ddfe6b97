"""funnel: what goes in, what is dropped for which reason, what is kept; and the documents put aside.

Every stage that may drop a document counts it here and writes it to `dropped.jsonl` whole, with its reason,
so that nothing disappears and the report can show the way from the raw corpus to the training text.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.data.document import Document, json_line
from llm.runtime import atomic_file


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A document put aside. facts: what the reason rests on, such as `kept_id` or `score`."""

    document: Document
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


def n_bytes(text: str) -> int:
    """UTF-8 bytes of a text."""
    return len(text.encode("utf-8", "surrogatepass"))


class Funnel:
    """Counts documents and bytes one by one; parts counted in several processes add up by `add`."""

    def __init__(self) -> None:
        self.docs: Counter[tuple[str, str, str]] = Counter()  # (in | kept | dropped, kind, reason)
        self.bytes: Counter[tuple[str, str, str]] = Counter()
        self.blame: Counter[tuple[str, str]] = Counter()  # (slot, reason)

    def enter(self, document: Document) -> None:
        """Count a document as it comes in."""
        self._count("in", document)

    def keep(self, document: Document) -> None:
        """Count a document as it goes on; it may have lost bytes to editing."""
        self._count("kept", document)

    def drop(self, dropped: Dropped) -> None:
        """Count a document put aside, as it came in."""
        self._count("dropped", dropped.document, dropped.reason)
        self.blame[str(dropped.facts.get("slot", "")), dropped.reason] += 1

    def add(self, other: "Funnel") -> None:
        """Take over what another one counted."""
        self.docs.update(other.docs)
        self.bytes.update(other.bytes)
        self.blame.update(other.blame)

    def report(self) -> dict[str, Any]:
        """Documents and bytes that entered, were dropped by reason, and were kept: in all and for each kind.

        A kept document may have lost bytes to editing; `edited_away_bytes` is that difference.
        """
        kinds = sorted({kind for what, kind, _ in self.docs if what == "in"})
        return self._report(set(kinds)) | {"kinds": {kind: self._report({kind}) for kind in kinds}}

    def require_kept(self, section: str, advice: str) -> None:
        """Raise ValueError when nothing is left, naming the slot of `section` and the reason that dropped most."""
        if any(what == "kept" for what, _, _ in self.docs):
            return
        (slot, reason), count = min(self.blame.items(), key=lambda item: (-item[1], item[0]))
        raise ValueError(
            f"no document is left of {self.blame.total()}; {section}.{slot} dropped most ({count} as '{reason}'); "
            f"{advice}"
        )

    def _count(self, what: str, document: Document, reason: str = "") -> None:
        self.docs[what, document.kind, reason] += 1
        self.bytes[what, document.kind, reason] += n_bytes(document.text)

    def _report(self, kinds: set[str]) -> dict[str, Any]:
        before, after, gone = (self._size(what, kinds) for what in ("in", "kept", "dropped"))
        reasons = sorted({reason for what, kind, reason in self.docs if what == "dropped" and kind in kinds})
        return {
            "in": before,
            "kept": after,
            "dropped": gone,
            "edited_away_bytes": before["bytes"] - gone["bytes"] - after["bytes"],
            "kept_docs_frac": after["docs"] / max(1, before["docs"]),
            "kept_bytes_frac": after["bytes"] / max(1, before["bytes"]),
            "reasons": {reason: self._size("dropped", kinds, reason) for reason in reasons},
        }

    def _size(self, what: str, kinds: set[str], reason: str | None = None) -> dict[str, int]:
        keys = [key for key in self.docs if key[0] == what and key[1] in kinds and reason in (None, key[2])]
        return {"docs": sum(self.docs[key] for key in keys), "bytes": sum(self.bytes[key] for key in keys)}


def funnel(
    entered: Iterable[Document], kept: Iterable[Document], dropped: Iterable[Dropped]
) -> dict[str, Any]:
    """The report of documents that are all there at once."""
    counts = Funnel()
    for document in entered:
        counts.enter(document)
    for document in kept:
        counts.keep(document)
    for drop in dropped:
        counts.drop(drop)
    return counts.report()


def size(documents: Iterable[Document]) -> dict[str, int]:
    """Number of documents and their bytes."""
    docs = total = 0
    for document in documents:
        docs, total = docs + 1, total + n_bytes(document.text)
    return {"docs": docs, "bytes": total}


def dropped_line(dropped: Dropped) -> bytes:
    """One JSON line: all fields of the document, the reason, its facts."""
    return json_line(vars(dropped.document) | dropped.facts | {"reason": dropped.reason})


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    """Write one line for each dropped document."""
    with atomic_file(path, "wb") as handle:
        handle.writelines(map(dropped_line, dropped))


def read_dropped(path: Path) -> list[tuple[Document, str]]:
    """The dropped documents of a stage and their reasons, all at once. Raises ValueError as `iter_dropped`."""
    return [(drop.document, drop.reason) for drop in iter_dropped(path)]


def iter_dropped(path: Path) -> Iterator[Dropped]:
    """The dropped documents of a stage, one by one. Raises ValueError when the file is missing or damaged."""
    fields = Document.__dataclass_fields__
    try:
        with open(path, "rb") as handle:
            for line in handle:
                record = json.loads(line.decode("utf-8"))
                document = Document(**{key: record.pop(key) for key in fields if key in record})
                yield Dropped(document=document, reason=record.pop("reason"), facts=record)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a list of dropped documents ({error}); delete it, dvc repro") from None


def require_kept(section: str, kept: list[Document], dropped: list[Dropped], advice: str) -> None:
    """The same as `Funnel.require_kept`, for documents that are all there at once."""
    counts = Funnel()
    for document in kept[:1]:
        counts.keep(document)
    for drop in dropped:
        counts.drop(drop)
    counts.require_kept(section, advice)
