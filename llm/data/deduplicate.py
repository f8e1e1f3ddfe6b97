"""deduplicate: drop training documents that repeat another one, or a validation document.

Slots run in order on what the one before left: `exact`, then `near`, which drop whole documents, then
`paragraphs`, which edits those that stay. Keep-policy: of a cluster the validation document stays, else the
longest text, else the smallest id; so the result does not depend on the order of the input. Validation
documents are compared with but never dropped or edited: a training document that repeats one leaves with the
reason `in_validation`, or the held-out score would measure memory.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm import registry
from llm.data.dedup.base import Dedup, clusters, ends
from llm.data.dedup_corpus import Corpus, Picked, corpus_of_documents, corpus_of_files, mapper
from llm.data.document import Document, Lines, document_line, read_documents, read_lines, require_any
from llm.data.funnel import Dropped, Funnel, dropped_line, n_bytes, size
from llm.data.paragraphs.base import Paragraphs
from llm.data.spool import take
from llm.params import Family
from llm.runtime import atomic_file, output_dir, progress

IN_VALIDATION = "in_validation"
_STAYS = -1


@dataclass(frozen=True, kw_only=True)
class DedupParams:
    """exact: cheap and certain, first. near: on the survivors. paragraphs: inside what is left."""

    exact: Annotated[Any, Family("llm.data.dedup")]
    near: Annotated[Any, Family("llm.data.dedup")]
    paragraphs: Annotated[Any, Family("llm.data.paragraphs")]

    def methods(self) -> dict[str, Dedup]:
        """Slot name -> method for whole documents, in the order in which they run."""
        return {"exact": registry.build(self.exact), "near": registry.build(self.near)}


@dataclass(frozen=True, kw_only=True)
class Deduplicated:
    """kept: in input order. dropped: in input order. slots: what each method reports of itself."""

    kept: list[Document]
    dropped: list[Dropped]
    slots: dict[str, Any]


def deduplicate(
    train: Sequence[Document], validation: Sequence[Document], params: DedupParams
) -> Deduplicated:
    """Split `train`, which is all there at once, into documents to keep and documents to drop."""
    methods, paragraphs = params.methods(), registry.build(params.paragraphs)
    corpus = corpus_of_documents(validation, train, methods, paragraphs)
    verdicts, reports = decide(corpus, methods, params)
    edits: Counter[str] = Counter()
    results = [
        verdict.apply(document, paragraphs, edits) for document, verdict in zip(train, verdicts, strict=True)
    ]
    reports["paragraphs"] |= edits
    return Deduplicated(
        kept=[result for result in results if isinstance(result, Document)],
        dropped=[result for result in results if isinstance(result, Dropped)],
        slots=reports,
    )


def deduplicate_set(source: Path, out: Path, dropped: Path, params: DedupParams) -> dict[str, Any]:
    """The stage: read a set, write the kept training documents and the untouched validation documents.

    Raises:
        ValueError: the set is empty, an id occurs twice, or nothing is left.
    """
    train, validation = source / "train.jsonl", source / "validation.jsonl"
    require_any(train, "download wrote nothing to train on")
    methods, paragraphs = params.methods(), registry.build(params.paragraphs)
    with output_dir(out) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        corpus = corpus_of_files(validation, train, methods, paragraphs, scratch)
        corpus.require_unique_ids(source)
        verdicts, reports = decide(corpus, methods, params)
        with (
            atomic_file(folder / "train.jsonl", "wb") as kept,
            atomic_file(scratch / "dropped.jsonl", "wb") as aside,
        ):
            counts, edits = _write(train, verdicts, paragraphs, (kept, aside))
        counts.require_kept("dedup", "compare the train and validation files of the input")
        with output_dir(dropped) as beside:
            shutil.move(scratch / "dropped.jsonl", beside)
        shutil.rmtree(scratch)
        shutil.copyfile(validation, folder / "validation.jsonl")
    reports["paragraphs"] |= edits
    return {"train": counts.report(), "validation": size(read_documents(validation)), "slots": reports}


def _write(
    train: Path, verdicts: "Iterator[Verdict]", paragraphs: Paragraphs, files: tuple[IO[bytes], IO[bytes]]
) -> tuple[Funnel, Counter[str]]:
    """Carry the verdicts out, batch by batch: what is kept goes to the first file, what is not to the second."""
    counts, edits = Funnel(), Counter[str]()
    batches = ((lines, list(islice(verdicts, len(lines.lines)))) for lines in read_lines(train))
    mapped = mapper(train)(partial(_carry_out, paragraphs=paragraphs), batches)
    for texts, counted, edited in progress(mapped, "dedup writes"):
        for file, text in zip(files, texts, strict=True):
            file.write(text)
        counts.add(counted)
        edits.update(edited)
    return counts, edits


def _carry_out(
    batch: "tuple[Lines, list[Verdict]]", *, paragraphs: Paragraphs
) -> tuple[tuple[bytes, bytes], Funnel, Counter[str]]:
    counts, edits = Funnel(), Counter[str]()
    kept, aside = [], []
    for document, verdict in zip(batch[0].documents(), batch[1], strict=True):
        counts.enter(document)
        result = verdict.apply(document, paragraphs, edits)
        if isinstance(result, Document):
            counts.keep(result)
            kept.append(document_line(result))
        else:
            counts.drop(result)
            aside.append(dropped_line(result))
    return (b"".join(kept), b"".join(aside)), counts, edits


class Verdict(NamedTuple):
    """What becomes of a document. repeated: a mark for each paragraph that may be removed."""

    slot: str = ""
    reason: str = ""
    kept_id: str = ""
    repeated: Sequence[bool] = ()

    def apply(self, document: Document, paragraphs: Paragraphs, edits: Counter[str]) -> Document | Dropped:
        """The document as it stays, or as it goes. Adds to `edits`."""
        if self.slot:
            return self._drop(document, self.slot, self.reason)
        if not any(self.repeated):
            return document
        text = paragraphs.without(document.text, self.repeated)
        edits["removed"] += sum(self.repeated)
        edits["removed_bytes"] += n_bytes(document.text) - n_bytes(text)
        if not text or text.isspace():
            edits["docs_emptied"] += 1
            return self._drop(document, "paragraphs", paragraphs.reason)
        edits["docs_edited"] += 1
        return replace(document, text=text)

    def _drop(self, document: Document, slot: str, reason: str) -> Dropped:
        return Dropped(document=document, reason=reason, facts={"slot": slot, "kept_id": self.kept_id})


# ---------------------------------------------------------------- the decision


def decide(
    corpus: Corpus, methods: dict[str, Dedup], params: DedupParams
) -> tuple[Iterator[Verdict], dict[str, Any]]:
    """A verdict for each training document, in input order, and the reports of the slots.

    Shapes: places are rows in the order of the keep-policy, so the first place of a cluster stays.
    """
    order = corpus.best_first()
    stand_in = np.arange(len(order))  # place -> the place that replaced it
    slot_of = np.full(len(order), _STAYS, dtype=np.int8)  # place -> the slot that dropped it
    reports: dict[str, Any] = {}
    for number, (slot, method) in enumerate(methods.items()):
        alive = np.flatnonzero(slot_of == _STAYS)
        signatures = take(corpus.signatures[slot], order[alive], corpus.scratch)
        pairs = method.pairs(signatures, Picked(corpus.texts, order[alive]))
        roots = clusters(len(alive), pairs.rows_M2)
        kind = registry.kind_of(getattr(params, slot))
        reports[slot] = {"kind": kind, **pairs.facts, "clusters": cluster_report(roots)}
        gone = (roots != np.arange(len(alive))) & (alive >= corpus.n_validation)
        stand_in[alive[gone]] = alive[roots[gone]]
        slot_of[alive[gone]] = number
    repeated_P, owner_P = repeated_paragraphs(corpus, order, slot_of == _STAYS)
    n_inside = int(np.count_nonzero(owner_P[repeated_P] < corpus.n_validation))
    reports["paragraphs"] = _paragraph_report(params, len(repeated_P), n_inside)
    return _verdicts(corpus, order, slot_of, stand_in, methods, (repeated_P, owner_P)), reports


def repeated_paragraphs(
    corpus: Corpus, order: NDArray[np.int64], stays: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For each paragraph hash: whether it goes, and the place of the document where it stays.

    It stays where it occurs first, in the order of the keep-policy, among the documents that stay.
    """
    place_of_row = np.empty(len(order), dtype=np.int64)
    place_of_row[order] = np.arange(len(order))
    place_P = np.repeat(place_of_row, corpus.n_hashes)
    compared = np.flatnonzero(stays[place_P])
    by_hash = compared[np.lexsort((place_P[compared], corpus.hashes[compared]))]
    is_first = np.ones(len(by_hash), dtype=np.bool_)
    is_first[1:] = corpus.hashes[by_hash[1:]] != corpus.hashes[by_hash[:-1]]
    owner_P = place_P.copy()
    owner_P[by_hash] = place_P[by_hash][is_first][np.cumsum(is_first) - 1]
    return (owner_P != place_P) & (place_P >= corpus.n_validation), owner_P


def _verdicts(
    corpus: Corpus,
    order: NDArray[np.int64],
    slot_of: NDArray[np.int8],
    stand_in: NDArray[np.int64],
    methods: dict[str, Dedup],
    paragraphs_P: tuple[NDArray[np.bool_], NDArray[np.int64]],
) -> Iterator[Verdict]:
    """From places back to documents, in input order."""
    slots = list(methods)
    final = ends(stand_in)
    place_of_row = np.empty(len(order), dtype=np.int64)
    place_of_row[order] = np.arange(len(order))
    repeated_P, owner_P = paragraphs_P
    until = np.cumsum(corpus.n_hashes)
    for row in range(corpus.n_validation, len(order)):
        place = int(place_of_row[row])
        mine = slice(int(until[row] - corpus.n_hashes[row]), int(until[row]))
        if slot_of[place] != _STAYS:
            slot = slots[slot_of[place]]
            reason = IN_VALIDATION if stand_in[place] < corpus.n_validation else methods[slot].reason
            yield Verdict(slot, reason, _id(corpus, order[final[place]]))
        elif repeated_P[mine].any():
            owner = owner_P[mine][repeated_P[mine]][0]
            yield Verdict(kept_id=_id(corpus, order[owner]), repeated=repeated_P[mine].tolist())
        else:
            yield Verdict()


def _id(corpus: Corpus, row: np.int64) -> str:
    return corpus.ids[int(row)].decode("utf-8", "surrogatepass")


def cluster_report(roots_N: NDArray[np.int64]) -> dict[str, Any]:
    """Clusters of two and more: how many, how many documents, the largest, and how many of each size."""
    counts = np.bincount(roots_N, minlength=1)
    sizes, n_clusters = np.unique(counts[counts > 1], return_counts=True)
    return {
        "count": int(n_clusters.sum()),
        "docs": int(sizes @ n_clusters),
        "largest": int(sizes.max(initial=0)),
        "sizes": {str(size): int(count) for size, count in zip(sizes, n_clusters, strict=True)},
    }


def _paragraph_report(params: DedupParams, n_compared: int, n_in_validation: int) -> dict[str, Any]:
    """What is known before a text is edited; the counts of the edits come on top."""
    kind = registry.kind_of(params.paragraphs)
    if kind == "none":
        return {"kind": kind}
    counts = dict.fromkeys(("removed", "removed_bytes", "docs_edited", "docs_emptied"), 0)
    return {"kind": kind, "compared": n_compared, "removed_as_in_validation": n_in_validation, **counts}
