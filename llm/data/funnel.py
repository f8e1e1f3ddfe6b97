"""funnel: what goes in, what is dropped for which reason, what is kept; and the documents put aside.

Every stage that may drop a document counts it here and writes it to `dropped.jsonl` whole, with its reason,
so that nothing disappears and the report can show the way from the raw corpus to the training text.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm.data.document import Document
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


def funnel(
    entered: Iterable[Document], kept: Iterable[Document], dropped: Iterable[Dropped]
) -> dict[str, Any]:
    """Documents and bytes that entered, were dropped by reason, and were kept: in all and for each kind.

    A kept document may have lost bytes to editing; `edited_away_bytes` is that difference.
    """
    entered, kept, dropped = list(entered), list(kept), list(dropped)
    kinds = sorted({document.kind for document in entered})
    report = _counts(entered, kept, dropped)
    report["kinds"] = {
        kind: _counts(
            [document for document in entered if document.kind == kind],
            [document for document in kept if document.kind == kind],
            [drop for drop in dropped if drop.document.kind == kind],
        )
        for kind in kinds
    }
    return report


def _counts(entered: list[Document], kept: list[Document], dropped: list[Dropped]) -> dict[str, Any]:
    before, after = size(entered), size(kept)
    gone = size(drop.document for drop in dropped)
    reasons = sorted({drop.reason for drop in dropped})
    return {
        "in": before,
        "kept": after,
        "dropped": gone,
        "edited_away_bytes": before["bytes"] - gone["bytes"] - after["bytes"],
        "kept_docs_frac": after["docs"] / max(1, before["docs"]),
        "kept_bytes_frac": after["bytes"] / max(1, before["bytes"]),
        "reasons": {
            reason: size(drop.document for drop in dropped if drop.reason == reason) for reason in reasons
        },
    }


def size(documents: Iterable[Document]) -> dict[str, int]:
    """Number of documents and their bytes."""
    sizes = [n_bytes(document.text) for document in documents]
    return {"docs": len(sizes), "bytes": sum(sizes)}


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    """Write one JSON line for each dropped document: all its fields, its reason, its facts."""
    with atomic_file(path) as handle:
        for drop in dropped:
            record = asdict(drop.document) | drop.facts | {"reason": drop.reason}
            handle.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")


def read_dropped(path: Path) -> list[tuple[Document, str]]:
    """The dropped documents of a stage and their reasons. Raises ValueError when the file is missing or damaged."""
    fields = Document.__dataclass_fields__
    try:
        with open(path, encoding="utf-8") as handle:
            records = [json.loads(line) for line in handle]
        return [(Document(**{k: v for k, v in r.items() if k in fields}), r["reason"]) for r in records]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a list of dropped documents ({error}); delete it, dvc repro") from None


def require_kept(section: str, kept: list[Document], dropped: list[Dropped], advice: str) -> None:
    """Raise ValueError when nothing is left, naming the slot of `section` and the reason that dropped most."""
    if kept:
        return
    counts = Counter((str(drop.facts.get("slot", "")), drop.reason) for drop in dropped)
    (slot, reason), count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    raise ValueError(
        f"no document is left of {len(dropped)}; {section}.{slot} dropped most ({count} as '{reason}'); {advice}"
    )
