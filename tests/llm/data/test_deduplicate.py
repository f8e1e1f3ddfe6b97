"""Orchestration of de-duplication: keep-policy, validation, chains of slots, the files of the stage."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from llm.data import dedup_corpus, spool
from llm.data import document as document_module
from llm.data.dedup import exact, minhash, none, simhash
from llm.data.deduplicate import DedupParams, cluster_report, deduplicate, deduplicate_set
from llm.data.document import Document, read_documents, write_documents
from llm.data.funnel import read_dropped
from llm.data.paragraphs import exact as exact_paragraphs
from llm.data.paragraphs import none as no_paragraphs

OFF = no_paragraphs.Config()
PARAMS = DedupParams(exact=exact.Config(), near=minhash.Config(), paragraphs=OFF)
WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("al", "en", "ir", "os", "um")]


def text(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=120))


def document(name: str, text: str, kind: str = "tales") -> Document:
    return Document(id=name, source="s", kind=kind, licence="l", work=name, text=text)


def reasons(
    train: list[Document], validation: list[Document], params: DedupParams = PARAMS
) -> dict[str, Any]:
    result = deduplicate(train, validation, params)
    assert [d.id for d in train if d.id not in {drop.document.id for drop in result.dropped}] == [
        d.id for d in result.kept
    ]
    return {
        drop.document.id: (drop.reason, drop.facts["slot"], drop.facts["kept_id"]) for drop in result.dropped
    }


def test_the_longest_copy_stays_then_the_smallest_id() -> None:
    train = [
        document("c", text(1)),
        document("b", text(1) + "  "),
        document("a", text(1)),
        document("d", text(2)),
    ]
    assert reasons(train, []) == {
        "a": ("exact_duplicate", "exact", "b"),
        "c": ("exact_duplicate", "exact", "b"),
    }


def test_near_copies_leave_with_their_own_reason() -> None:
    train = [document("a", text(1)), document("b", text(1) + " and so on"), document("c", text(3))]
    assert reasons(train, []) == {"a": ("near_duplicate", "near", "b")}


def test_a_copy_of_a_validation_document_leaves_even_if_it_is_longer() -> None:
    train = [document("t1", text(1)), document("t2", text(2) + " with a longer end"), document("t3", text(3))]
    validation = [document("v1", text(1)), document("v2", text(2))]
    assert reasons(train, validation) == {
        "t1": ("in_validation", "exact", "v1"),
        "t2": ("in_validation", "near", "v2"),
    }


def test_copies_inside_validation_drop_nothing() -> None:
    validation = [document("v1", text(1)), document("v2", text(1)), document("v3", text(1) + " more words")]
    result = deduplicate([document("t", text(9))], validation, PARAMS)
    assert [kept.id for kept in result.kept] == ["t"]
    assert result.dropped == []


def test_a_train_copy_of_a_validation_copy_is_found_through_the_cluster() -> None:
    validation = [document("v1", text(1)), document("v2", text(1))]
    assert reasons([document("t", text(1))], validation) == {"t": ("in_validation", "exact", "v1")}


def test_kept_id_names_the_document_that_stays_in_the_end() -> None:
    train = [document("a", text(1)), document("b", text(1)), document("c", text(1) + " and a new end")]
    assert reasons(train, []) == {
        "a": ("near_duplicate", "near", "c"),
        "b": ("exact_duplicate", "exact", "c"),
    }


def test_switched_off_slots_drop_nothing() -> None:
    off = DedupParams(exact=none.Config(), near=none.Config(), paragraphs=OFF)
    train = [document("a", text(1)), document("b", text(1))]
    assert reasons(train, [document("v", text(1))], off) == {}


def test_near_alone_finds_exact_copies_too() -> None:
    params = DedupParams(exact=none.Config(), near=minhash.Config(), paragraphs=OFF)
    assert reasons([document("a", text(1)), document("b", text(1))], [], params) == {
        "b": ("near_duplicate", "near", "a")
    }


def test_clusters_are_reported_by_size() -> None:
    train = [document(f"{seed}-{copy}", text(seed)) for seed in range(3) for copy in range(seed + 1)]
    result = deduplicate(train, [], PARAMS)
    assert result.slots["exact"] == {
        "kind": "exact",
        "clusters": {"count": 2, "docs": 5, "largest": 3, "sizes": {"2": 1, "3": 1}},
    }
    assert result.slots["near"]["kind"] == "minhash"
    assert (result.slots["near"]["bands"], result.slots["near"]["rows"]) == (14, 9)
    assert result.slots["near"]["clusters"]["count"] == 0


def test_cluster_report_of_nothing() -> None:
    import numpy as np

    assert cluster_report(np.arange(3)) == {"count": 0, "docs": 0, "largest": 0, "sizes": {}}


def write_set(folder: Path, train: list[Document], validation: list[Document]) -> None:
    write_documents(folder / "train.jsonl", train)
    write_documents(folder / "validation.jsonl", validation)


def test_the_stage_writes_what_it_kept_and_what_it_dropped(tmp_path: Path) -> None:
    train = [
        document("a", text(1)),
        document("b", text(1)),
        document("c", text(2), "chat"),
        document("d", text(3)),
    ]
    write_set(tmp_path / "raw", train, [document("v", text(3))])
    odd_bytes = (tmp_path / "raw" / "validation.jsonl").read_bytes().replace(b'", "', b'",  "')
    (tmp_path / "raw" / "validation.jsonl").write_bytes(odd_bytes)
    report = deduplicate_set(tmp_path / "raw", tmp_path / "out", tmp_path / "gone", PARAMS)
    assert [kept.id for kept in read_documents(tmp_path / "out" / "train.jsonl")] == ["a", "c"]
    assert (tmp_path / "out" / "validation.jsonl").read_bytes() == odd_bytes
    assert [(d.id, r) for d, r in read_dropped(tmp_path / "gone" / "dropped.jsonl")] == [
        ("b", "exact_duplicate"),
        ("d", "in_validation"),
    ]
    line = json.loads((tmp_path / "gone" / "dropped.jsonl").read_text("utf-8").splitlines()[0])
    assert (line["kept_id"], line["kind"], line["text"]) == ("a", "tales", text(1))
    assert report["train"]["reasons"]["exact_duplicate"]["docs"] == 1
    assert (
        report["train"]["in"]["docs"] == report["train"]["kept"]["docs"] + report["train"]["dropped"]["docs"]
    )
    assert report["train"]["edited_away_bytes"] == 0
    assert report["validation"] == {"docs": 1, "bytes": len(text(3))}


def test_an_emptied_corpus_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    write_set(tmp_path / "raw", [document("t", text(1))], [document("v", text(1))])
    with pytest.raises(ValueError, match=r"left of 1; dedup\.exact dropped most \(1 as 'in_validation'\)"):
        deduplicate_set(tmp_path / "raw", tmp_path / "out", tmp_path / "gone", PARAMS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_bad_input_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "raw", [], [])
    with pytest.raises(ValueError, match=r"train\.jsonl: empty corpus"):
        deduplicate_set(tmp_path / "raw", tmp_path / "out", tmp_path / "gone", PARAMS)
    write_set(tmp_path / "raw", [document("same", text(1))], [document("same", text(2))])
    with pytest.raises(ValueError, match=r"document id 'same' occurs 2 times"):
        deduplicate_set(tmp_path / "raw", tmp_path / "out", tmp_path / "gone", PARAMS)


# ---------------------------------------------------------------- paragraphs

EDITING = DedupParams(
    exact=exact.Config(), near=none.Config(), paragraphs=exact_paragraphs.Config(min_words=20)
)


def test_a_paragraph_stays_where_the_best_document_has_it() -> None:
    shared, own, other = text(1), text(2), text(3) + " and on and on"
    train = [
        document("short", f"{shared}\n\n{own}"),
        document("long", f"{other}\n\n{shared}"),
        document("twice", f"Yes.\n\n{text(4)}\n\n{text(4)}"),
    ]
    result = deduplicate(train, [], EDITING)
    assert [kept.text for kept in result.kept] == [own, train[1].text, train[2].text]
    assert result.slots["paragraphs"] == {
        "kind": "exact",
        "compared": 6,
        "removed": 1,
        "removed_bytes": len(shared) + 2,
        "removed_as_in_validation": 0,
        "docs_edited": 1,
        "docs_emptied": 0,
    }
    assert deduplicate(train[::-1], [], EDITING).kept == result.kept[::-1]


def test_a_paragraph_of_validation_leaves_train_and_never_validation() -> None:
    validation = [document("v1", text(1)), document("v2", text(1) + "\n\n" + text(2))]
    train = [document("a", f"{text(1)}\n\n{text(5)}"), document("b", f"{text(2)}\n\n{text(1)}")]
    result = deduplicate(train, validation, EDITING)
    assert [(kept.id, kept.text) for kept in result.kept] == [("a", text(5))]
    [drop] = result.dropped
    assert (drop.document, drop.reason) == (train[1], "repeated_paragraphs")
    assert drop.facts == {"slot": "paragraphs", "kept_id": "v2"}
    counts = result.slots["paragraphs"]
    assert (counts["removed"], counts["removed_as_in_validation"], counts["docs_emptied"]) == (3, 3, 1)


def test_a_dropped_document_keeps_no_paragraph_from_others() -> None:
    # "gone" is an exact copy: its paragraph counts once, for the document that stays
    train = [document("a-stays", text(1)), document("gone", text(1)), document("c", f"{text(1)}\n\nThe end")]
    result = deduplicate(train, [], EDITING)
    assert {kept.id: kept.text for kept in result.kept} == {"c": train[2].text}
    assert {drop.document.id: drop.reason for drop in result.dropped} == {
        "gone": "exact_duplicate",
        "a-stays": "repeated_paragraphs",
    }


def test_the_stage_counts_what_editing_took(tmp_path: Path) -> None:
    train = [document("a", f"{text(1)}\n\n{text(5)}"), document("b", text(1) + "\n\n" + text(7) + " more")]
    write_set(tmp_path / "raw", train, [document("v", text(9))])
    report = deduplicate_set(tmp_path / "raw", tmp_path / "out", tmp_path / "gone", EDITING)
    kept = list(read_documents(tmp_path / "out" / "train.jsonl"))
    assert [one.text for one in kept] == [text(5), train[1].text]
    assert report["train"]["edited_away_bytes"] == len(text(1)) + 2
    assert report["slots"]["paragraphs"]["removed_bytes"] == len(text(1)) + 2


# ---------------------------------------------------------------- large corpora


def corpus(folder: Path, n_documents: int) -> None:
    """A third of the documents are copies: exact, near, or of validation."""
    train = [
        document(f"d{n:06}", text(n) if n % 3 else text(n - n % 9) + (" end" if n % 2 else ""))
        for n in range(n_documents)
    ]
    write_set(folder, train, [document(f"v{n}", text(n)) for n in range(4)])


@pytest.mark.parametrize(
    ("near", "paragraphs"),
    [
        (minhash.Config(), OFF),
        (minhash.Config(), exact_paragraphs.Config()),
        (simhash.Config(shingle_words=1, weights="idf"), OFF),
    ],
)
def test_files_workers_and_scratch_files_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: Any, paragraphs: Any
) -> None:
    params = DedupParams(exact=exact.Config(), near=near, paragraphs=paragraphs)
    corpus(tmp_path / "raw", 90)
    train, validation = (
        list(read_documents(tmp_path / f"raw/{name}.jsonl")) for name in ("train", "validation")
    )
    wanted = deduplicate(train, validation, params)
    reports = []
    for name, workers, small, in_memory in (("a", "1", 1 << 26, 1 << 28), ("b", "2", 0, 1000)):
        monkeypatch.setenv("LLM_WORKERS", workers)
        monkeypatch.setattr(dedup_corpus, "_SMALL_BYTES", small)
        monkeypatch.setattr(spool, "IN_MEMORY_BYTES", in_memory)
        monkeypatch.setattr(document_module, "BATCH_BYTES", 1 << 14)
        reports.append(deduplicate_set(tmp_path / "raw", tmp_path / name, tmp_path / f"{name}-gone", params))
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "train.jsonl",
            "validation.jsonl",
        ]
        assert list(read_documents(tmp_path / name / "train.jsonl")) == wanted.kept
    assert reports[0] == reports[1]
    assert reports[0]["slots"] == wanted.slots
    for file in ("{}/train.jsonl", "{}-gone/dropped.jsonl"):
        assert (tmp_path / file.format("a")).read_bytes() == (tmp_path / file.format("b")).read_bytes()
    assert len(wanted.dropped) > 20


def peak_bytes(folder: Path, n_documents: int) -> int:
    corpus(folder / "raw", n_documents)
    tracemalloc.start()
    deduplicate_set(folder / "raw", folder / "out", folder / "gone", PARAMS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_grows_by_a_few_numbers_a_document_not_by_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1 << 16)
    monkeypatch.setattr(document_module, "BATCH_BYTES", 1 << 16)
    peak_bytes(tmp_path / "warm", 60)  # what is built once and kept does not count
    n, times = 120, 20
    small = peak_bytes(tmp_path / "small", n)
    large = peak_bytes(tmp_path / "large", n * times)
    text_bytes = (tmp_path / "large" / "raw" / "train.jsonl").stat().st_size
    assert text_bytes > 1_000_000
    a_document = (large - small) / (n * (times - 1))
    assert a_document < 250  # a third of them are in found pairs, which cost more than the rest
    assert large - small < 0.4 * text_bytes
