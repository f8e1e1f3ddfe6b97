"""deduplicate: drop training documents that repeat another one, or a validation document.

Slots run in order on what the one before left: `exact`, then `near`. Keep-policy: of a cluster the
validation document stays, else the longest text, else the smallest id; so the result does not depend on
the order of the input. Validation documents are compared with but never dropped: a training document that
repeats one leaves with the reason `in_validation`, or the held-out score would measure memory.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from llm import registry
from llm.data.dedup.base import Dedup, clusters
from llm.data.document import Document, read_documents, require_documents, write_documents
from llm.data.funnel import Dropped, funnel, require_kept, size, write_dropped
from llm.params import Family
from llm.runtime import output_dir, progress

IN_VALIDATION = "in_validation"
_BATCH = 512  # documents whose signatures are made between two movements of the progress bar


@dataclass(frozen=True, kw_only=True)
class DedupParams:
    """exact: cheap and certain, first. near: on the survivors."""

    exact: Annotated[Any, Family("llm.data.dedup")]
    near: Annotated[Any, Family("llm.data.dedup")]

    def slots(self) -> dict[str, Any]:
        """Slot name -> Config, in the order in which they run."""
        return {"exact": self.exact, "near": self.near}


@dataclass(frozen=True, kw_only=True)
class Deduplicated:
    """kept: in input order. dropped: in input order. slots: what each method reports of itself."""

    kept: list[Document]
    dropped: list[Dropped]
    slots: dict[str, Any]


def deduplicate(
    train: Sequence[Document], validation: Sequence[Document], params: DedupParams
) -> Deduplicated:
    """Split `train` into documents to keep and documents to drop."""
    best_first = sorted(validation, key=_keep_key) + sorted(train, key=_keep_key)
    n_validation = len(validation)
    stand_in = np.arange(len(best_first))  # row -> the row that replaced it
    reasons: dict[int, tuple[str, str]] = {}  # row -> (slot, reason)
    reports: dict[str, Any] = {}
    for slot, config in params.slots().items():
        method: Dedup = registry.build(config)
        rows = np.array([row for row in range(len(best_first)) if row not in reasons], dtype=np.int64)
        roots, facts = _search(method, [best_first[row].text for row in rows], slot)
        reports[slot] = {"kind": registry.kind_of(config), **facts, "clusters": cluster_report(roots)}
        for row, root in zip(rows.tolist(), rows[roots].tolist(), strict=True):
            if row != root and row >= n_validation:
                stand_in[row] = root
                reasons[row] = (slot, IN_VALIDATION if root < n_validation else method.reason)
    drops = {best_first[row].id: _drop(best_first, row, stand_in, *reasons[row]) for row in sorted(reasons)}
    return Deduplicated(
        kept=[document for document in train if document.id not in drops],
        dropped=[drops[document.id] for document in train if document.id in drops],
        slots=reports,
    )


def deduplicate_set(source: Path, out: Path, dropped: Path, params: DedupParams) -> dict[str, Any]:
    """The stage: read a set, write the kept training documents and the untouched validation documents.

    Raises:
        ValueError: the set is empty, an id occurs twice, or nothing is left.
    """
    train = require_documents(source / "train.jsonl", "download wrote nothing to train on")
    validation = list(read_documents(source / "validation.jsonl"))
    _require_unique_ids(train + validation, source)
    result = deduplicate(train, validation, params)
    require_kept("dedup", result.kept, result.dropped, "compare the train and validation files of the input")
    with output_dir(dropped) as folder:
        write_dropped(folder / "dropped.jsonl", result.dropped)
    with output_dir(out) as folder:
        write_documents(folder / "train.jsonl", result.kept)
        shutil.copyfile(source / "validation.jsonl", folder / "validation.jsonl")
    report = {"train": funnel(train, result.kept, result.dropped), "validation": size(validation)}
    return report | {"slots": result.slots}


def cluster_report(roots_N: NDArray[np.int64]) -> dict[str, Any]:
    """Clusters of two and more: how many, how many documents, the largest, and how many of each size."""
    sizes = Counter(Counter(roots_N.tolist()).values())
    sizes.pop(1, None)
    return {
        "count": sum(sizes.values()),
        "docs": sum(size * count for size, count in sizes.items()),
        "largest": max(sizes, default=0),
        "sizes": {str(size): sizes[size] for size in sorted(sizes)},
    }


def _search(method: Dedup, texts: list[str], slot: str) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Signatures batch by batch, then pairs, then clusters."""
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    signatures = np.concatenate([method.signatures(batch) for batch in progress(batches, f"dedup {slot}")])
    pairs = method.pairs(signatures, texts)
    return clusters(len(texts), pairs.rows_M2), pairs.facts


def _drop(
    documents: Sequence[Document], row: int, stand_in: NDArray[np.int64], slot: str, reason: str
) -> Dropped:
    """Name the document that stands for a dropped one at the end, also through a chain of slots."""
    kept = row
    while stand_in[kept] != kept:
        kept = int(stand_in[kept])
    return Dropped(
        document=documents[row], reason=reason, facts={"slot": slot, "kept_id": documents[kept].id}
    )


def _keep_key(document: Document) -> tuple[int, str]:
    return -len(document.text), document.id


def _require_unique_ids(documents: Sequence[Document], source: Path) -> None:
    counts = Counter(document.id for document in documents)
    name, count = max(counts.items(), key=lambda item: item[1])
    if count > 1:
        raise ValueError(
            f"{source}: document id '{name}' occurs {count} times; ids must be unique, fix the source"
        )
