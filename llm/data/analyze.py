"""analyze: what the corpus is made of, before and after cleaning, as numbers, tables and pictures.

For every kind of document, raw and clean: word frequencies and their Zipf slope, vocabulary growth, document
lengths, repetition, scripts, type-token and compression ratios, the most frequent words and n-grams; and what
was dropped, by stage, reason and kind, with examples. Documents are read once, a batch at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data import analyze_plots
from llm.data.distinct import Types
from llm.data.document import Document, read_documents
from llm.data.drops import Drops, collect_drops
from llm.data.funnel import iter_dropped, n_bytes
from llm.data.profile import ALL, Profile, profiles
from llm.data.script import SCRIPTS, Script
from llm.data.word_counts import coverage, growth, heaps_fit, ranked, type_token_ratio, zipf_fit
from llm.runtime import output_dir, write_csv

_PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
_LISTED_N = (2, 3, 5, 10)

Corpora = dict[str, dict[str, Profile]]  # "raw", "clean" -> kind -> profile


@dataclass(frozen=True, kw_only=True)
class AnalyzeParams:
    """top_words, top_ngrams: how many to list. zipf_min_rank, zipf_max_rank: ranks the line is fitted through.

    length_bins: bins of the length histogram, of equal width in the logarithm of words.
    type_token_words: vocabularies are compared over this many words, since they grow with the text.
    heaps_min_words: vocabulary growth is fitted from so many words on; before, a text is hardly repetitive.
    max_ngram: longest n-gram whose repetition is measured. max_types: different words of a kind that are counted
    exactly; beyond, memory stays what it is and numbers come from a sample of the words.
    examples, example_chars: of each reason to drop.
    """

    top_words: int = 30
    top_ngrams: int = 10
    zipf_min_rank: int = 10
    zipf_max_rank: int = 1000
    length_bins: int = 30
    type_token_words: int = 10_000
    heaps_min_words: int = 1000
    max_ngram: int = 10
    max_types: int = 200_000
    examples: int = 3
    example_chars: int = 160

    def __post_init__(self) -> None:
        if not 1 <= self.zipf_min_rank < self.zipf_max_rank:
            raise ValueError(
                f"zipf_min_rank must be below zipf_max_rank ({self.zipf_min_rank}, {self.zipf_max_rank})"
            )
        if self.max_ngram < 2:
            raise ValueError(f"max_ngram ({self.max_ngram}) must be at least 2")
        if self.max_types < 4:
            raise ValueError(f"max_types ({self.max_types}) must be at least 4")


_RowsOf = Callable[[Profile, AnalyzeParams], Iterator[tuple[Any, ...]]]


def analyze(
    raw: Path, clean: Path, dropped: dict[str, Path], plots: Path, params: AnalyzeParams
) -> dict[str, Any]:
    """The stage: training texts before and after cleaning -> report; CSV and PNG files in `plots`.

    Raises:
        ValueError: a corpus is missing, damaged or empty.
    """
    drops = collect_drops(
        {stage: iter_dropped(folder / "dropped.jsonl") for stage, folder in dropped.items()},
        n_examples=params.examples,
        example_chars=params.example_chars,
    )
    corpora = {
        "raw": _profiles(raw / "train.jsonl", "raw", "download wrote nothing", params),
        "clean": _profiles(clean / "train.jsonl", "clean", "filter left nothing", params),
    }
    report = {
        corpus: {kind: summary(profile, kinds[ALL], params) for kind, profile in kinds.items()}
        for corpus, kinds in corpora.items()
    }
    with output_dir(plots) as folder:
        write_tables(folder, corpora, drops, params)
        analyze_plots.draw(folder)
    return {
        "corpora": report,
        "dropped": drops.nested(),
        "examples": drops.examples,
        "validation": _sizes(clean / "validation.jsonl"),
    }


def summary(profile: Profile, together: Profile, params: AnalyzeParams) -> dict[str, Any]:
    """The numbers of a profile; `together` is that of the whole corpus."""
    types, n_words = profile.types, profile.types.n_words
    line = zipf_fit(types.counts, params.zipf_min_rank, params.zipf_max_rank)
    law = heaps_fit(_growth(types), params.heaps_min_words)
    occurrences, _ = types.sample()
    richness = type_token_ratio(occurrences, n_words, params.type_token_words)
    return {
        "docs": profile.docs,
        "docs_frac": profile.docs / together.docs,
        "bytes": profile.text_bytes,
        "bytes_frac": profile.text_bytes / max(1, together.text_bytes),
        "words": n_words,
        "types": types.scale * len(occurrences),
        "type_token_ratio": types.scale * richness,
        "words_seen_once_frac": sum(count == 1 for count in occurrences) / max(1, len(occurrences)),
        "compression_ratio": round(profile.text_bytes / max(1, profile.compressed_bytes), 2),
        "zipf_slope": line.slope if line else None,
        "zipf_r2": line.r2 if line else None,
        "heaps_k": law.k if law else None,
        "heaps_beta": law.beta if law else None,
        "heaps_r2": law.r2 if law else None,
        "doc_words": percentiles(profile.lengths) | {"mean": n_words / max(1, profile.docs)},
        "coverage": {str(size): coverage(types.counts, n_words, size) for size in (100, 1000, 2000, 4000)},
        "script_letters_frac": _shares(profile.letters),
        "main_language_docs": dict(sorted(profile.languages.items())),
        "repeated_ngrams_frac": {str(n): row["mean"] for n, row in repetition(profile).items()},
        "duplicate_lines_frac": profile.duplicate_share("lines"),
        "duplicate_paragraphs_frac": profile.duplicate_share("paragraphs"),
        "top_words": [list(pair) for pair in ranked(types.counts)[: params.top_words]],
        "top_ngrams": {
            str(n): [list(entry) for entry in found.top(params.top_ngrams)]
            for n, found in sorted(profile.frequent.items())
        },
    } | ({"sampled_types": {"one_in": types.scale, "count_error": types.missed}} if types.scale > 1 else {})


def _growth(types: Types) -> list[tuple[int, int]]:
    """Distinct words by words read."""
    _, first = types.sample()
    return [(read, types.scale * met) for read, met in growth(first, types.n_words)]


def repetition(profile: Profile) -> dict[int, dict[str, float]]:
    """n -> mean, median and 95th percentile over the documents of the share of repeated n-grams."""
    shares = profile.repeated_share().astype(np.float64)
    return {
        n: {
            "mean": float(column.mean()),
            "median": float(np.median(column)),
            "p95": float(np.percentile(column, 95)),
        }
        for n, column in enumerate(shares.T, 2)
    }


def percentiles(lengths: Sequence[int]) -> dict[str, float]:
    """Percentiles of document lengths, from shortest to longest."""
    return {f"p{p}": float(np.percentile(lengths, p)) for p in _PERCENTILES}


# ---------------------------------------------------------------- tables


def write_tables(folder: Path, corpora: Corpora, drops: Drops, params: AnalyzeParams) -> None:
    """One CSV file for each picture, and ngrams.csv."""
    groups = [(corpus, kind, p) for corpus, kinds in corpora.items() for kind, p in kinds.items()]
    tables: dict[str, tuple[str, Iterable[Iterable[Any]]]] = {
        "reasons": ("stage,reason,kind,docs,bytes,median_words", _reason_rows(drops)),
        "zipf": ("corpus,kind,rank,word,count,fit", _rows(groups, _zipf_rows, params)),
        "heaps": ("corpus,kind,words,types,fit", _rows(groups, _heaps_rows, params)),
        "repetition": ("corpus,kind,n,mean,median,p95", _rows(groups, _repetition_rows, params)),
        "shares": ("corpus,kind,docs,bytes,latin,han,other", _rows(groups, _share_rows, params)),
        "ngrams": ("corpus,kind,n,rank,ngram,count,error", _rows(groups, _ngram_rows, params)),
        "lengths": ("corpus,kind,min_words,max_words,docs", _length_rows(corpora, drops, params)),
    }
    for name, (header, rows) in tables.items():
        write_csv(folder / f"{name}.csv", header.split(","), rows)


def length_histogram(lengths: Sequence[int], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Documents in each bin; one that is empty counts in the first bin, one longer than all in the last."""
    return np.histogram(np.clip(lengths, edges[0], edges[-1] - 1), edges)[0]


def length_edges(lengths: Sequence[int], n_bins: int) -> NDArray[np.int64]:
    """Whole-number borders of bins of about equal width in log words, from 1 to above the longest."""
    longest = max(2, max(lengths, default=2))
    return np.unique(np.ceil(np.geomspace(1, longest + 1, n_bins + 1) - 1e-9).astype(np.int64))


def _rows(
    groups: list[tuple[str, str, Profile]], rows: _RowsOf, params: AnalyzeParams
) -> Iterator[list[Any]]:
    """The rows of every corpus and kind, with both names in front."""
    for corpus, kind, profile in groups:
        for row in rows(profile, params):
            yield [corpus, kind, *row]


def _reason_rows(drops: Drops) -> Iterator[tuple[Any, ...]]:
    for g in drops.groups:
        yield g.stage, g.reason, g.kind, len(g.lengths), g.text_bytes, np.median(g.lengths)


def _zipf_rows(profile: Profile, params: AnalyzeParams, points: int = 60) -> Iterator[tuple[Any, ...]]:
    """(rank, word, count, count of the fitted line where it was fitted) at evenly spaced log ranks."""
    counts = profile.types.counts
    top_down = [entry for entry in ranked(counts) if entry[1] > profile.types.missed]
    line = zipf_fit(counts, params.zipf_min_rank, params.zipf_max_rank)
    ranks = np.unique(np.round(np.geomspace(1, max(1, len(top_down)), points)).astype(int)).tolist()
    fitted = range(params.zipf_min_rank, params.zipf_max_rank + 1)
    for rank in ranks[: len(top_down)]:
        yield rank, *top_down[rank - 1], line.count(rank) if line and rank in fitted else None


def _heaps_rows(profile: Profile, params: AnalyzeParams) -> Iterator[tuple[Any, ...]]:
    """(words read, types met, types of the fitted law where it was fitted)."""
    curve = _growth(profile.types)
    law = heaps_fit(curve, params.heaps_min_words)
    for n_words, types in curve:
        yield n_words, types, law.types(n_words) if law and n_words >= params.heaps_min_words else None


def _repetition_rows(profile: Profile, params: AnalyzeParams) -> Iterator[tuple[Any, ...]]:
    for n, row in repetition(profile).items():
        yield n, row["mean"], row["median"], row["p95"]


def _share_rows(profile: Profile, params: AnalyzeParams) -> Iterator[tuple[Any, ...]]:
    yield profile.docs, profile.text_bytes, *(profile.letters[script] for script in SCRIPTS)


def _ngram_rows(profile: Profile, params: AnalyzeParams) -> Iterator[tuple[Any, ...]]:
    for n, found in sorted(profile.frequent.items()):
        for rank, entry in enumerate(found.top(params.top_ngrams), 1):
            yield n, rank, *entry


def _length_rows(corpora: Corpora, drops: Drops, params: AnalyzeParams) -> Iterator[tuple[Any, ...]]:
    """Histograms of every corpus and kind, and of every reason under the corpus `dropped`."""
    groups = [
        (corpus, kind, p.lengths.tolist()) for corpus, kinds in corpora.items() for kind, p in kinds.items()
    ]
    for stage, reason in dict.fromkeys((g.stage, g.reason) for g in drops.groups):
        of_reason = [g.lengths for g in drops.groups if (g.stage, g.reason) == (stage, reason)]
        groups.append(("dropped", f"{stage}: {reason}", list(chain.from_iterable(of_reason))))
    edges = length_edges(corpora["raw"][ALL].lengths, params.length_bins)
    for corpus, kind, lengths in groups:
        for i, docs in enumerate(length_histogram(lengths, edges)):
            yield corpus, kind, int(edges[i]), int(edges[i + 1]) - 1, int(docs)


# ---------------------------------------------------------------- reading


def _profiles(path: Path, label: str, reason: str, params: AnalyzeParams) -> dict[str, Profile]:
    """The profiles of a file. Raises ValueError when it holds no document: an empty corpus is never a result."""
    documents: Iterator[Document] = read_documents(path)
    first = list(islice(documents, 1))
    if not first:
        raise ValueError(f"{path}: empty corpus; {reason}")
    return profiles(
        chain(first, documents), label, max_n=params.max_ngram, listed_n=_LISTED_N, max_types=params.max_types
    )


def _sizes(path: Path) -> dict[str, dict[str, int]]:
    """Documents and bytes of each kind."""
    out: dict[str, dict[str, int]] = {}
    for document in read_documents(path):
        row = out.setdefault(document.kind, {"docs": 0, "bytes": 0})
        row["docs"] += 1
        row["bytes"] += n_bytes(document.text)
    return out


def _shares(letters: Counter[Script]) -> dict[str, float]:
    """Share of the letters that belong to each script."""
    return {script: letters[script] / max(1, letters.total()) for script in SCRIPTS}
