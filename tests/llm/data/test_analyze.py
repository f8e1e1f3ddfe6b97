"""The analysis on a corpus whose numbers can be counted by hand."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.data.analyze import AnalyzeParams, analyze, length_edges, length_histogram
from llm.data.analyze_plots import draw
from llm.data.document import Document, write_documents
from llm.data.funnel import Dropped, write_dropped

PARAMS = AnalyzeParams(top_words=3, zipf_min_rank=1, zipf_max_rank=4, length_bins=4, type_token_words=100)


def document(name: str, text: str, kind: str = "tales") -> Document:
    return Document(id=name, source="s", kind=kind, licence="l", work=name, text=text)


KEPT = [document("t1", "the cat the dog"), document("c1", "A: hi the cat\nB: hi", "chat")]
GONE = [document("t2", "the " * 20), document("c2", "ho", "chat")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_documents(root / "raw" / "train.jsonl", [*KEPT, *GONE])
    write_documents(root / "clean" / "train.jsonl", KEPT)
    write_documents(root / "clean" / "validation.jsonl", [document("v", "çá")])
    write_dropped(root / "d1" / "dropped.jsonl", [Dropped(document=GONE[0], reason="exact_duplicate")])
    write_dropped(root / "d2" / "dropped.jsonl", [Dropped(document=GONE[1], reason="too_short")])
    return root


@pytest.fixture(scope="module")
def report(root: Path) -> dict[str, Any]:
    dropped = {"dedup": root / "d1", "filter": root / "d2"}
    return analyze(root / "raw", root / "clean", dropped, root / "plots", PARAMS)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_numbers_by_hand(report: dict[str, Any]) -> None:
    clean = report["corpora"]["clean"]
    assert list(clean) == ["chat", "tales", "all"]
    assert (
        clean["tales"]["docs"],
        clean["tales"]["bytes"],
        clean["tales"]["words"],
        clean["tales"]["types"],
    ) == (
        1,
        15,
        4,
        3,
    )
    assert clean["all"]["words"] == 8
    assert clean["all"]["top_words"] == [["the", 3], ["cat", 2], ["hi", 2]]
    assert clean["all"]["words_seen_once_frac"] == 0.25
    assert clean["tales"]["type_token_ratio"] == 0.75
    assert clean["all"]["doc_words"]["p50"] == 4
    assert clean["all"]["coverage"]["1000"] == 1.0
    raw = report["corpora"]["raw"]
    assert raw["tales"]["doc_words"]["p100"] == 20
    assert raw["tales"]["doc_words"]["mean"] == 12
    assert raw["tales"]["compression_ratio"] > clean["tales"]["compression_ratio"]
    assert report["validation"] == {"tales": {"docs": 1, "bytes": 4}}
    assert report["dropped"]["dedup"]["exact_duplicate"]["tales"]["docs"] == 1
    assert report["dropped"]["filter"]["too_short"]["chat"]["median_words"] == 1


def test_the_tables(root: Path, report: dict[str, Any]) -> None:
    assert table(root / "plots" / "reasons.csv") == [
        {
            "stage": "dedup",
            "reason": "exact_duplicate",
            "kind": "tales",
            "docs": "1",
            "bytes": "80",
            "median_words": "20.0",
        },
        {
            "stage": "filter",
            "reason": "too_short",
            "kind": "chat",
            "docs": "1",
            "bytes": "2",
            "median_words": "1.0",
        },
    ]
    zipf = [
        row for row in table(root / "plots" / "zipf.csv") if (row["corpus"], row["kind"]) == ("clean", "all")
    ]
    assert [(row["rank"], row["word"], row["count"]) for row in zipf] == [
        ("1", "the", "3"),
        ("2", "cat", "2"),
        ("3", "hi", "2"),
        ("4", "dog", "1"),
    ]
    assert all(float(row["fit"]) > 0 for row in zipf)
    lengths = table(root / "plots" / "lengths.csv")
    groups = {(row["corpus"], row["kind"]) for row in lengths}
    assert {("raw", "all"), ("clean", "chat"), ("dropped", "filter: too_short")} <= groups
    for corpus, kind, docs in (
        ("raw", "all", 4),
        ("clean", "all", 2),
        ("dropped", "dedup: exact_duplicate", 1),
    ):
        rows = [row for row in lengths if (row["corpus"], row["kind"]) == (corpus, kind)]
        assert sum(int(row["docs"]) for row in rows) == docs
        assert all(int(a["max_words"]) + 1 == int(b["min_words"]) for a, b in itertools.pairwise(rows))


def test_what_the_tables_of_repetition_and_growth_hold(root: Path, report: dict[str, Any]) -> None:
    """raw tales: `the cat the dog` repeats no bigram; twenty times `the` repeats 18 of 19 bigrams, 10 of 11 tens."""
    rows = {(row["corpus"], row["kind"], row["n"]): row for row in table(root / "plots" / "repetition.csv")}
    assert float(rows["raw", "tales", "2"]["mean"]) == pytest.approx(18 / 19 / 2, rel=1e-5)
    assert float(rows["raw", "tales", "10"]["p95"]) == pytest.approx(0.95 * 10 / 11, rel=1e-5)
    assert rows["clean", "all", "2"]["mean"] == "0.0"
    assert report["corpora"]["raw"]["tales"]["repeated_ngrams_frac"]["2"] == pytest.approx(9 / 19, rel=1e-5)
    growth = table(root / "plots" / "heaps.csv")
    clean = [
        (row["words"], row["types"]) for row in growth if (row["corpus"], row["kind"]) == ("clean", "all")
    ]
    # the cat the dog | hi the cat hi
    assert clean == [
        (str(n), str(types)) for n, types in zip(range(1, 9), (1, 2, 2, 3, 4, 4, 4, 4), strict=True)
    ]
    assert report["corpora"]["clean"]["all"]["heaps_beta"] is None  # 8 words obey no law
    grams = [row for row in table(root / "plots" / "ngrams.csv") if row["corpus"] == "raw"]
    assert {
        "kind": "tales",
        "n": "2",
        "rank": "1",
        "ngram": "the the",
        "count": "19",
        "error": "0",
    }.items() <= next(row for row in grams if row["kind"] == "tales").items()
    assert report["corpora"]["raw"]["all"]["top_ngrams"]["2"] == [["the the", 19, 1]]


def test_shares_and_duplicates(root: Path, report: dict[str, Any]) -> None:
    raw = report["corpora"]["raw"]
    assert raw["tales"]["docs_frac"] == 0.5
    assert raw["tales"]["bytes_frac"] == pytest.approx(95 / 116)
    assert raw["all"]["script_letters_frac"] == {"latin": 1.0, "han": 0.0, "other": 0.0}
    assert raw["all"]["main_language_docs"] == {"en": 4}
    assert raw["chat"]["duplicate_lines_frac"] == 0  # hi the cat | hi | ho
    rows = table(root / "plots" / "shares.csv")
    assert rows[0] == {
        "corpus": "raw",
        "kind": "chat",
        "docs": "2",
        "bytes": "21",
        "latin": "14",
        "han": "0",
        "other": "0",
    }


def test_examples_of_what_was_dropped(report: dict[str, Any]) -> None:
    assert report["examples"]["filter"] == {
        "too_short": [{"id": "c2", "kind": "chat", "text": "ho", "facts": {}}]
    }
    (example,) = report["examples"]["dedup"]["exact_duplicate"]
    assert example["text"] == ("the " * 20).strip()


def test_an_empty_corpus_is_refused(root: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "none" / "train.jsonl", [])
    with pytest.raises(ValueError, match=r"none/train\.jsonl: empty corpus; filter left nothing"):
        analyze(root / "raw", tmp_path / "none", {}, tmp_path / "plots", PARAMS)


def test_the_pictures(root: Path, report: dict[str, Any]) -> None:
    names = {path.name for path in (root / "plots").iterdir()}
    pictures = ("heaps", "lengths", "reasons", "repetition", "shares", "zipf")
    assert names == {f"{name}.{end}" for name in pictures for end in ("csv", "png")} | {"ngrams.csv"}
    for path in (root / "plots").glob("*.png"):
        picture = path.read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5000
        assert b"Software" not in picture


def test_nothing_dropped_is_drawn_too(tmp_path: Path) -> None:
    write_documents(tmp_path / "raw" / "train.jsonl", KEPT)
    write_documents(tmp_path / "raw" / "validation.jsonl", [])
    for name in ("d1", "d2"):
        write_dropped(tmp_path / name / "dropped.jsonl", [])
    dropped = {"dedup": tmp_path / "d1", "filter": tmp_path / "d2"}
    report = analyze(tmp_path / "raw", tmp_path / "raw", dropped, tmp_path / "plots", PARAMS)
    assert report["dropped"] == {}
    assert table(tmp_path / "plots" / "reasons.csv") == []
    assert report["corpora"]["raw"] == report["corpora"]["clean"]


@pytest.mark.parametrize("n_bins", [1, 5, 30])
@pytest.mark.parametrize("longest", [1, 7, 20_000])
def test_bins_cover_every_length_once(n_bins: int, longest: int) -> None:
    lengths = [1, longest]
    edges = length_edges(lengths, n_bins)
    assert edges[0] == 1
    assert edges[-1] > longest
    assert (np.diff(edges) > 0).all()
    assert length_histogram([0, *lengths], edges).sum() == 3


def test_a_missing_file_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dropped\.jsonl: no such file"):
        analyze(root / "raw", root / "clean", {"filter": tmp_path / "d3"}, tmp_path / "new", PARAMS)
    assert not (tmp_path / "new").exists()


def test_a_window_without_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="zipf_min_rank must be below zipf_max_rank"):
        AnalyzeParams(zipf_min_rank=10, zipf_max_rank=10)


def test_a_single_word_repeats_nothing_worth_measuring() -> None:
    with pytest.raises(ValueError, match=r"max_ngram \(1\) must be at least 2"):
        AnalyzeParams(max_ngram=1)


def test_equal_tables_give_equal_pictures(root: Path, report: dict[str, Any], tmp_path: Path) -> None:
    for path in (root / "plots").glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    draw(tmp_path)
    for path in (root / "plots").glob("*.png"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
