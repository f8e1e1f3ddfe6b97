"""analyze: what the corpus is made of, before and after cleaning, as numbers, tables and pictures.

Word frequencies and their Zipf slope, document lengths, type-token and compression ratios, each for every
kind of document, raw and clean; and what was dropped, by stage, reason and kind.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data import analyze_plots
from llm.data.document import Document, read_documents, require_documents
from llm.data.funnel import n_bytes, read_dropped
from llm.data.word_counts import coverage, ranked, type_token_ratio, zipf_fit
from llm.data.words import words
from llm.runtime import output_dir, progress, write_csv

ALL = "all"
_PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True, kw_only=True)
class AnalyzeParams:
    """top_words: how many to list. zipf_min_rank, zipf_max_rank: ranks the line is fitted through.

    length_bins: bins of the length histogram, of equal width in the logarithm of words.
    type_token_words: vocabularies are compared over this many words, since they grow with the text.
    """

    top_words: int = 30
    zipf_min_rank: int = 10
    zipf_max_rank: int = 1000
    length_bins: int = 30
    type_token_words: int = 10_000

    def __post_init__(self) -> None:
        if not 1 <= self.zipf_min_rank < self.zipf_max_rank:
            raise ValueError(
                f"zipf_min_rank must be below zipf_max_rank ({self.zipf_min_rank}, {self.zipf_max_rank})"
            )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known of one group of documents. counts: word -> occurrences. lengths: words of each document."""

    docs: int
    text_bytes: int
    counts: Counter[str]
    lengths: list[int]
    compressed_bytes: int


def analyze(
    raw: Path, clean: Path, dropped: dict[str, Path], plots: Path, params: AnalyzeParams
) -> dict[str, Any]:
    """The stage: training texts before and after cleaning -> report; CSV and PNG files in `plots`.

    Raises:
        ValueError: a corpus is missing, damaged or empty.
    """
    corpora = {
        "raw": profiles(require_documents(raw / "train.jsonl", "download wrote nothing"), "raw"),
        "clean": profiles(require_documents(clean / "train.jsonl", "filter left nothing"), "clean"),
    }
    gone = dropped_groups(
        {stage: read_dropped(folder / "dropped.jsonl") for stage, folder in dropped.items()}
    )
    report = {
        corpus: {kind: summary(profile, params) for kind, profile in kinds.items()}
        for corpus, kinds in corpora.items()
    }
    with output_dir(plots) as folder:
        write_tables(folder, corpora, gone, params)
        analyze_plots.draw(folder)
    return {"corpora": report, "dropped": _nested(gone), "validation": _sizes(clean / "validation.jsonl")}


def profiles(documents: Sequence[Document], label: str) -> dict[str, Profile]:
    """One profile for each kind, and one for all documents together."""
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document.kind, []).append(document)
    found = {kind: _profile(groups[kind], f"{label} {kind}") for kind in sorted(groups)}
    return found | {ALL: _merge(list(found.values()))}


def summary(profile: Profile, params: AnalyzeParams) -> dict[str, Any]:
    """The numbers of a profile."""
    n_words = sum(profile.counts.values())
    line = zipf_fit(profile.counts, params.zipf_min_rank, params.zipf_max_rank)
    return {
        "docs": profile.docs,
        "bytes": profile.text_bytes,
        "words": n_words,
        "types": len(profile.counts),
        "type_token_ratio": type_token_ratio(profile.counts, params.type_token_words),
        "words_seen_once_frac": sum(count == 1 for count in profile.counts.values())
        / max(1, len(profile.counts)),
        "compression_ratio": round(profile.text_bytes / max(1, profile.compressed_bytes), 2),
        "zipf_slope": line.slope if line else None,
        "zipf_r2": line.r2 if line else None,
        "doc_words": percentiles(profile.lengths) | {"mean": n_words / max(1, profile.docs)},
        "coverage": {str(size): coverage(profile.counts, size) for size in (100, 1000, 2000, 4000)},
        "top_words": [list(pair) for pair in ranked(profile.counts)[: params.top_words]],
    }


def percentiles(lengths: Sequence[int]) -> dict[str, float]:
    """Percentiles of document lengths, from shortest to longest."""
    return {f"p{p}": float(np.percentile(lengths, p)) for p in _PERCENTILES}


@dataclass(frozen=True, kw_only=True)
class DroppedGroup:
    """Documents of one kind that one stage dropped for one reason. lengths: words of each."""

    stage: str
    reason: str
    kind: str
    text_bytes: int
    lengths: list[int]


def dropped_groups(dropped: dict[str, list[tuple[Document, str]]]) -> list[DroppedGroup]:
    """Group what each stage dropped; most documents first within a stage."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for stage, pairs in dropped.items():
        for document, reason in pairs:
            groups.setdefault((stage, reason, document.kind), []).append(document.text)
    stages = list(dropped)
    return [
        DroppedGroup(
            stage=stage,
            reason=reason,
            kind=kind,
            text_bytes=sum(map(n_bytes, texts)),
            lengths=[len(words(text)) for text in texts],
        )
        for (stage, reason, kind), texts in sorted(
            groups.items(), key=lambda item: (stages.index(item[0][0]), -len(item[1]), item[0])
        )
    ]


def write_tables(
    folder: Path, corpora: dict[str, dict[str, Profile]], dropped: list[DroppedGroup], params: AnalyzeParams
) -> None:
    """zipf.csv, lengths.csv and reasons.csv."""
    write_csv(
        folder / "reasons.csv",
        ("stage", "reason", "kind", "docs", "bytes", "median_words"),
        ((g.stage, g.reason, g.kind, len(g.lengths), g.text_bytes, np.median(g.lengths)) for g in dropped),
    )
    write_csv(
        folder / "zipf.csv",
        ("corpus", "kind", "rank", "word", "count", "fit"),
        (
            (corpus, kind, *row)
            for corpus, kinds in corpora.items()
            for kind, profile in kinds.items()
            for row in _zipf_rows(profile.counts, params)
        ),
    )
    groups = [(corpus, kind, p.lengths) for corpus, kinds in corpora.items() for kind, p in kinds.items()]
    for stage_reason in dict.fromkeys((g.stage, g.reason) for g in dropped):
        of_reason = [g.lengths for g in dropped if (g.stage, g.reason) == stage_reason]
        groups.append(("dropped", ": ".join(stage_reason), [n for lengths in of_reason for n in lengths]))
    edges = length_edges(corpora["raw"][ALL].lengths, params.length_bins)
    write_csv(
        folder / "lengths.csv",
        ("corpus", "kind", "min_words", "max_words", "docs"),
        (
            (corpus, kind, int(edges[i]), int(edges[i + 1]) - 1, int(docs))
            for corpus, kind, lengths in groups
            for i, docs in enumerate(length_histogram(lengths, edges))
        ),
    )


def length_histogram(lengths: Sequence[int], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Documents in each bin; one that is empty counts in the first bin, one longer than all in the last."""
    return np.histogram(np.clip(lengths, edges[0], edges[-1] - 1), edges)[0]


def length_edges(lengths: Sequence[int], n_bins: int) -> NDArray[np.int64]:
    """Whole-number borders of bins of about equal width in log words, from 1 to above the longest."""
    longest = max(2, max(lengths, default=2))
    return np.unique(np.ceil(np.geomspace(1, longest + 1, n_bins + 1) - 1e-9).astype(np.int64))


def _profile(documents: Sequence[Document], label: str) -> Profile:
    counts: Counter[str] = Counter()
    lengths: list[int] = []
    packer, packed, size = zlib.compressobj(6), 0, 0
    for document in progress(documents, f"analyze {label}"):
        found = words(document.text)
        counts.update(found)
        lengths.append(len(found))
        data = document.text.encode("utf-8", "surrogatepass")
        packed, size = packed + len(packer.compress(data)), size + len(data)
    return Profile(
        docs=len(documents),
        text_bytes=size,
        counts=counts,
        lengths=lengths,
        compressed_bytes=packed + len(packer.flush()),
    )


def _merge(parts: Sequence[Profile]) -> Profile:
    """The profile of all kinds together, from theirs."""
    return Profile(
        docs=sum(part.docs for part in parts),
        text_bytes=sum(part.text_bytes for part in parts),
        counts=sum((part.counts for part in parts), Counter()),
        lengths=[length for part in parts for length in part.lengths],
        compressed_bytes=sum(part.compressed_bytes for part in parts),
    )


def _zipf_rows(
    counts: Counter[str], params: AnalyzeParams, points: int = 60
) -> list[tuple[int, str, int, float | None]]:
    """(rank, word, count, count of the fitted line where it was fitted) at evenly spaced log ranks."""
    top_down = ranked(counts)
    line = zipf_fit(counts, params.zipf_min_rank, params.zipf_max_rank)
    ranks = np.unique(np.round(np.geomspace(1, max(1, len(top_down)), points)).astype(int)).tolist()
    fitted = range(params.zipf_min_rank, params.zipf_max_rank + 1)
    return [
        (rank, *top_down[rank - 1], line.count(rank) if line and rank in fitted else None)
        for rank in ranks[: len(top_down)]
    ]


def _nested(groups: Sequence[DroppedGroup]) -> dict[str, Any]:
    """stage -> reason -> kind -> numbers."""
    out: dict[str, Any] = {}
    for group in groups:
        out.setdefault(group.stage, {}).setdefault(group.reason, {})[group.kind] = {
            "docs": len(group.lengths),
            "bytes": group.text_bytes,
            "median_words": float(np.median(group.lengths)),
        }
    return out


def _sizes(path: Path) -> dict[str, dict[str, int]]:
    """Documents and bytes of each kind."""
    out: dict[str, dict[str, int]] = {}
    for document in read_documents(path):
        row = out.setdefault(document.kind, {"docs": 0, "bytes": 0})
        row["docs"] += 1
        row["bytes"] += n_bytes(document.text)
    return out
