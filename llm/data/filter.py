"""filter: run the filters of the named slots over the training documents, count and keep aside what goes.

The slots run in the order of the fields of `FilterParams`. A filter that must look at the corpus first
(`needs_fit`) sees everything the slots before it left, edits included.
Validation documents are copied byte for byte: held-out bits per byte are measured on unfiltered text.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from llm import registry
from llm.data.document import Document, read_documents, require_documents, write_documents
from llm.data.filters.base import Filter
from llm.data.funnel import Dropped, funnel, require_kept, size, write_dropped
from llm.data.normalize import Normalize, NormalizeParams
from llm.params import Family
from llm.runtime import output_dir, progress, round_floats

EMPTY = "empty"  # the reason of a document of which a filter left nothing but white space


@dataclass(frozen=True, kw_only=True)
class FilterParams:
    """The slots, in the order in which they run; switch one off with the kind `none`."""

    normalize: NormalizeParams
    markup: Annotated[Any, Family("llm.data.filters")]
    language: Annotated[Any, Family("llm.data.filters")]
    quality: Annotated[Any, Family("llm.data.filters")]
    repetition: Annotated[Any, Family("llm.data.filters")]
    lines: Annotated[Any, Family("llm.data.filters")]
    structure: Annotated[Any, Family("llm.data.filters")]
    perplexity: Annotated[Any, Family("llm.data.filters")]
    simplicity: Annotated[Any, Family("llm.data.filters")]
    contamination: Annotated[Any, Family("llm.data.filters")]
    privacy: Annotated[Any, Family("llm.data.filters")]


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """kept: edited documents in input order. dropped: in input order, as they came in. edits: slot -> counts."""

    kept: list[Document]
    dropped: list[Dropped]
    edits: dict[str, dict[str, int]]


def build_filters(params: FilterParams) -> dict[str, Filter]:
    """Slot name -> filter, in the order in which they run."""
    slots = [field.name for field in fields(params) if field.name != "normalize"]
    built = {slot: registry.build(getattr(params, slot)) for slot in slots}
    return {"normalize": Normalize(params.normalize), **built}


def filter_documents(documents: Sequence[Document], filters: dict[str, Filter]) -> Filtered:
    """Run filter after filter over the documents that are left; each sees the texts as edited so far."""
    left = list(documents)
    dropped: dict[str, Dropped] = {}
    edits: dict[str, dict[str, int]] = {}
    for slot, filter_ in filters.items():
        left, edits[slot] = _run_slot(slot, filter_, left, dropped)
    return Filtered(
        kept=left,
        dropped=[replace(dropped[d.id], document=d) for d in documents if d.id in dropped],
        edits=edits,
    )


def filter_set(source: Path, out: Path, dropped: Path, params: FilterParams) -> dict[str, Any]:
    """The stage: read a set, write the kept training documents and the untouched validation documents.

    Raises:
        ValueError: the set is empty or nothing is left.
    """
    train = require_documents(source / "train.jsonl", "dedup left nothing; look at metrics/dedup.json")
    validation = list(read_documents(source / "validation.jsonl"))
    result = filter_documents(train, build_filters(params))
    require_kept("filter", result.kept, result.dropped, "loosen its limits in params.yaml")
    with output_dir(dropped) as folder:
        write_dropped(folder / "dropped.jsonl", result.dropped)
    with output_dir(out) as folder:
        write_documents(folder / "train.jsonl", result.kept)
        shutil.copyfile(source / "validation.jsonl", folder / "validation.jsonl")
    report = {"train": funnel(train, result.kept, result.dropped), "validation": size(validation)}
    return report | {"edits": result.edits}


def _run_slot(
    slot: str, filter_: Filter, documents: list[Document], dropped: dict[str, Dropped]
) -> tuple[list[Document], dict[str, int]]:
    """Judge all documents by one filter -> what is left, how many edits of which sort; adds to `dropped`."""
    if filter_.needs_fit:
        filter_.fit(documents)
    left: list[Document] = []
    edits: Counter[str] = Counter()
    for document in progress(documents, f"filter {slot}"):
        verdict = filter_.judge(document)
        reason = verdict.reason if not verdict.keep else "" if verdict.text.strip() else EMPTY
        if reason:
            facts = {"slot": slot, "score": round_floats(verdict.score)}
            dropped[document.id] = Dropped(document=document, reason=reason, facts=facts)
            continue
        left.append(document if verdict.text == document.text else replace(document, text=verdict.text))
        edits.update(verdict.edits)
    return left, dict(sorted(edits.items()))
