"""filter: run the filters of the named slots over the training documents, count and keep aside what goes.

The slots run in the order of the fields of `FilterParams`. Filters that only judge run together, in one pass
over the documents; one that must look at the corpus first (`needs_fit`) begins a pass of its own and sees
everything the slots before it left, edits included. A pass reads a file and writes one, batch by batch, on
all processes: memory does not grow with the corpus.
Validation documents are copied byte for byte: held-out bits per byte are measured on unfiltered text.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from llm import registry
from llm.data.document import (
    BATCH_BYTES,
    Document,
    DocumentFile,
    Lines,
    document_line,
    read_documents,
    read_lines,
    require_any,
)
from llm.data.filters.base import Filter
from llm.data.funnel import Dropped, Funnel, dropped_line, size
from llm.data.normalize import Normalize, NormalizeParams
from llm.data.parallel import map_batches
from llm.params import Family
from llm.runtime import atomic_file, output_dir, progress, round_floats

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


def filter_set(
    source: Path, out: Path, dropped: Path, params: FilterParams, references: Path | None = None
) -> dict[str, Any]:
    """The stage: read a set, write the kept training documents and the untouched validation documents.

    references: the folder of raw sets that benchmarks are made of, for filters that ask for them.

    Raises:
        ValueError: the set is empty or nothing is left.
    """
    train, validation = source / "train.jsonl", source / "validation.jsonl"
    require_any(train, "dedup left nothing; look at metrics/dedup.json")
    held_out = size(read_documents(validation))
    filters = build_filters(params)
    refer(filters, references)
    with output_dir(out) as folder:
        scratch = folder / "scratch"
        decisions, counts = _filter_file(train, folder / "train.jsonl", filters, scratch)
        _set_aside(train, decisions, scratch / "dropped.jsonl", counts.funnel)
        counts.funnel.require_kept("filter", "loosen its limits in params.yaml")
        with output_dir(dropped) as aside:
            shutil.move(scratch / "dropped.jsonl", aside)
        shutil.rmtree(scratch)
        shutil.copyfile(validation, folder / "validation.jsonl")
    edits = {slot: dict(sorted(counts.edits[slot].items())) for slot in filters}
    facts = {slot: found for slot, filter_ in filters.items() if (found := filter_.facts())}
    report = {"train": counts.funnel.report(), "validation": held_out, "edits": edits}
    return report | ({"facts": facts} if facts else {})


def refer(filters: Mapping[str, Filter], references: Path | None) -> None:
    """Give the benchmarks' texts to the filters that need them.

    Raises:
        ValueError: one needs them and there is no folder to read them from.
    """
    slots = [slot for slot, filter_ in filters.items() if filter_.needs_references]
    if not slots:
        return
    if references is None:
        raise ValueError(f"filter.{slots[0]}: needs the benchmarks; run the stage with --references data/raw")
    from llm.data.benchmarks import benchmark_texts

    texts = benchmark_texts(references)
    for slot in slots:
        filters[slot].refer(texts)


def passes(filters: Mapping[str, Filter]) -> list[dict[str, Filter]]:
    """Cut the slots before every filter that needs a fit: what stays together runs in one pass."""
    found: list[dict[str, Filter]] = [{}]
    for slot, filter_ in filters.items():
        if filter_.needs_fit and found[-1]:
            found.append({})
        found[-1][slot] = filter_
    return found


def filter_documents(documents: Sequence[Document], filters: Mapping[str, Filter]) -> Filtered:
    """The same for documents that are all there at once."""
    left, dropped = list(documents), {}
    edits: dict[str, Counter[str]] = {slot: Counter() for slot in filters}
    for together in passes(filters):
        fit(together, left)
        judged = [judge(document, together, edits) for document in left]
        for document, result in zip(left, judged, strict=True):
            if isinstance(result, Decision):
                dropped[document.id] = result
        left = [result for result in judged if isinstance(result, Document)]
    return Filtered(
        kept=left,
        dropped=[dropped[document.id].of(document) for document in documents if document.id in dropped],
        edits={slot: dict(sorted(counts.items())) for slot, counts in edits.items()},
    )


class Decision(NamedTuple):
    """Why a document is dropped."""

    slot: str
    reason: str
    score: float | None

    def of(self, document: Document) -> Dropped:
        """The document with the reason it is dropped for."""
        return Dropped(document=document, reason=self.reason, facts={"slot": self.slot, "score": self.score})


def fit(together: Mapping[str, Filter], documents: Iterable[Document]) -> None:
    """Show the corpus to the filter of a pass that needs it; it can only be the first."""
    for filter_ in together.values():
        if filter_.needs_fit:
            filter_.fit(documents)


def judge(
    document: Document, together: Mapping[str, Filter], edits: Mapping[str, Counter[str]]
) -> Document | Decision:
    """One document through filter after filter: what is left of it, or why it goes. Adds to `edits`."""
    for slot, filter_ in together.items():
        verdict = filter_.judge(document)
        blank = not verdict.text or verdict.text.isspace()
        if not verdict.keep or blank:
            return Decision(slot, EMPTY if verdict.keep else verdict.reason, round_floats(verdict.score))
        if verdict.text != document.text:
            document = replace(document, text=verdict.text)
        edits[slot].update(verdict.edits)
    return document


# ---------------------------------------------------------------- files, batch by batch


@dataclass(kw_only=True)
class Counts:
    """What is counted on the way."""

    funnel: Funnel = field(default_factory=Funnel)
    edits: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Take over what was counted in a batch."""
        self.funnel.add(other.funnel)
        for slot, counts in other.edits.items():
            self.edits.setdefault(slot, Counter()).update(counts)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A batch after a pass. kept: lines of what is left. decisions: for every document, in order."""

    kept: bytes
    decisions: list[Decision | None]
    counts: Counts


def _filter_file(
    source: Path, target: Path, filters: Mapping[str, Filter], scratch: Path
) -> tuple[list[Path], Counts]:
    """Pass after pass, each over the file the one before wrote -> files of decisions, counts without drops."""
    counts = Counts()
    decisions: list[Path] = []
    todo = passes(filters)
    for number, together in enumerate(todo, 1):
        first, last = number == 1, number == len(todo)
        left = target if last else scratch / f"left-{number}.jsonl"
        decisions.append(scratch / f"decisions-{number}.jsonl")
        fit(together, DocumentFile(source))
        work = partial(_judge_lines, together=together, first=first, last=last)
        with atomic_file(left, "wb") as kept, atomic_file(decisions[-1]) as decided:
            results = map_batches(work, read_lines(source))
            for judged in progress(results, f"filter {number}/{len(todo)}", _n_batches(source)):
                kept.write(judged.kept)
                decided.write(json.dumps(judged.decisions) + "\n")
                counts.add(judged.counts)
        source = left
    return decisions, counts


def _n_batches(path: Path) -> int:
    return -(-path.stat().st_size // BATCH_BYTES)


def _judge_lines(lines: Lines, *, together: Mapping[str, Filter], first: bool, last: bool) -> _Judged:
    """Judge a batch. Documents are counted as they enter the first pass and as they leave the last one."""
    counts = Counts(edits={slot: Counter() for slot in together})
    kept: list[bytes] = []
    decisions: list[Decision | None] = []
    for document in lines.documents():
        if first:
            counts.funnel.enter(document)
        result = judge(document, together, counts.edits)
        if isinstance(result, Decision):
            decisions.append(result)
            continue
        decisions.append(None)
        kept.append(document_line(result))
        if last:
            counts.funnel.keep(result)
    return _Judged(kept=b"".join(kept), decisions=decisions, counts=counts)


def _set_aside(source: Path, decisions: Sequence[Path], target: Path, funnel: Funnel) -> None:
    """Write the dropped documents as they came in, in their order; count them."""
    with atomic_file(target, "wb") as handle:
        for lines, counted in map_batches(_dropped_lines, _dropped_batches(source, decisions)):
            handle.write(lines)
            funnel.add(counted)


def _dropped_batches(source: Path, decisions: Sequence[Path]) -> Iterator[list[tuple[bytes, Decision]]]:
    """Go through the input again, with the decisions of all passes beside it."""
    streams = [_read_decisions(path) for path in decisions]
    batch: list[tuple[bytes, Decision]] = []
    n_bytes = 0
    for lines in read_lines(source):
        for line in lines.lines:
            # a pass saw what the ones before it left, so its next decision is about this document
            decision = next((one for one in map(next, streams) if one is not None), None)
            if decision is not None:
                batch.append((line, decision))
                n_bytes += len(line)
        if n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    yield batch


def _read_decisions(path: Path) -> Iterator[Decision | None]:
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            for one in json.loads(line):
                yield one and Decision(*one)


def _dropped_lines(batch: Sequence[tuple[bytes, Decision]]) -> tuple[bytes, Funnel]:
    counted = Funnel()
    written: list[bytes] = []
    for line, decision in batch:
        dropped = decision.of(Document(**json.loads(line.decode("utf-8"))))
        counted.drop(dropped)
        written.append(dropped_line(dropped))
    return b"".join(written), counted
