"""Counting what was dropped: nothing is lost between in, dropped, edited away and kept."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from llm.data.document import Document
from llm.data.funnel import (
    Dropped,
    Funnel,
    funnel,
    iter_dropped,
    n_bytes,
    read_dropped,
    require_kept,
    size,
    write_dropped,
)


def document(name: str, text: str, kind: str = "tales") -> Document:
    return Document(id=name, source="s", kind=kind, licence="l", work=name, text=text)


DOCUMENTS = [
    document("a", "four"),
    document("b", "sévén"),
    document("c", "xx", "chat"),
    document("d", "yyy", "chat"),
]


def test_the_funnel_by_hand() -> None:
    kept = [replace(DOCUMENTS[0], text="fou"), DOCUMENTS[3]]
    dropped = [Dropped(document=DOCUMENTS[1], reason="r1"), Dropped(document=DOCUMENTS[2], reason="r2")]
    report = funnel(DOCUMENTS, kept, dropped)
    assert report["in"] == {"docs": 4, "bytes": 4 + 7 + 2 + 3}
    assert report["kept"] == {"docs": 2, "bytes": 6}
    assert report["dropped"] == {"docs": 2, "bytes": 9}
    assert report["edited_away_bytes"] == 1
    assert report["reasons"] == {"r1": {"docs": 1, "bytes": 7}, "r2": {"docs": 1, "bytes": 2}}
    assert report["kept_docs_frac"] == 0.5
    assert report["kept_bytes_frac"] == 6 / 16
    assert list(report["kinds"]) == ["chat", "tales"]
    assert report["kinds"]["chat"]["in"] == {"docs": 2, "bytes": 5}
    assert report["kinds"]["chat"]["reasons"] == {"r2": {"docs": 1, "bytes": 2}}
    assert report["kinds"]["tales"]["edited_away_bytes"] == 1


def test_a_kind_that_is_gone_is_still_shown() -> None:
    report = funnel(DOCUMENTS[:1], [], [Dropped(document=DOCUMENTS[0], reason="r")])
    assert report["kinds"]["tales"]["kept"] == {"docs": 0, "bytes": 0}


def test_bytes_are_utf8() -> None:
    assert n_bytes("é你😀") == 2 + 3 + 4
    assert size(DOCUMENTS) == {"docs": 4, "bytes": 16}


def test_dropped_documents_come_back_whole(tmp_path: Path) -> None:
    odd = document("odd", 'line\u2028separator "quote"\n\\ 你')
    drops = [
        Dropped(document=odd, reason="near_duplicate", facts={"kept_id": "x"}),
        Dropped(document=DOCUMENTS[2], reason="too_short", facts={"score": 3}),
    ]
    write_dropped(tmp_path / "dropped.jsonl", drops)
    assert read_dropped(tmp_path / "dropped.jsonl") == [(odd, "near_duplicate"), (DOCUMENTS[2], "too_short")]
    assert '"kept_id": "x"' in (tmp_path / "dropped.jsonl").read_text("utf-8")


def test_no_dropped_document_is_an_empty_file(tmp_path: Path) -> None:
    write_dropped(tmp_path / "dropped.jsonl", [])
    assert read_dropped(tmp_path / "dropped.jsonl") == []


@pytest.mark.parametrize("content", ['{"id": "a"}\n', "not json\n", '{"reason": "r"}\n'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "dropped.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"dropped\.jsonl: not a list of dropped documents"):
        read_dropped(tmp_path / "dropped.jsonl")
    with pytest.raises(ValueError, match="no such file"):
        read_dropped(tmp_path / "missing.jsonl")


def test_an_empty_result_names_the_reason_that_dropped_most() -> None:
    drops = [
        Dropped(document=DOCUMENTS[0], reason="too_short", facts={"slot": "quality"}),
        Dropped(document=DOCUMENTS[1], reason="not_simple", facts={"slot": "simplicity"}),
        Dropped(document=DOCUMENTS[2], reason="not_simple", facts={"slot": "simplicity"}),
    ]
    message = r"no document is left of 3; filter\.simplicity dropped most \(2 as 'not_simple'\); loosen it"
    with pytest.raises(ValueError, match=message):
        require_kept("filter", [], drops, "loosen it")
    require_kept("filter", DOCUMENTS[:1], drops, "loosen it")


def test_parts_add_up_in_any_cut() -> None:
    dropped = [Dropped(document=one, reason="r", facts={"slot": "s"}) for one in DOCUMENTS[1:3]]
    whole = Funnel()
    for part in ([0, 1], [2], [], [3]):
        counted = Funnel()
        for i in part:
            counted.enter(DOCUMENTS[i])
        whole.add(pickle.loads(pickle.dumps(counted)))
    for one in (DOCUMENTS[0], DOCUMENTS[3]):
        whole.keep(one)
    for drop in dropped:
        whole.drop(drop)
    assert whole.report() == funnel(DOCUMENTS, [DOCUMENTS[0], DOCUMENTS[3]], dropped)
    assert whole.blame == {("s", "r"): 2}
    whole.require_kept("filter", "advice")


def test_a_document_without_bytes_is_counted_too() -> None:
    report = funnel([document("e", "")], [], [Dropped(document=document("e", ""), reason="empty")])
    assert report["in"] == {"docs": 1, "bytes": 0}
    assert report["reasons"] == {"empty": {"docs": 1, "bytes": 0}}


def test_facts_come_back_one_by_one(tmp_path: Path) -> None:
    dropped = [Dropped(document=DOCUMENTS[0], reason="r", facts={"slot": "s", "score": 0.25})]
    write_dropped(tmp_path / "d.jsonl", dropped)
    assert list(iter_dropped(tmp_path / "d.jsonl")) == dropped
