"""Orchestration of filters: order of slots, edits, counts, the files of the stage."""

import json
import tracemalloc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from llm import registry
from llm.data import document as document_module
from llm.data import filter as filter_module
from llm.data.document import Document, read_documents, write_documents
from llm.data.filter import FilterParams, build_filters, filter_documents, filter_set, passes, refer
from llm.data.filters import html, none, pii, quality, simplicity
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.funnel import funnel, iter_dropped, read_dropped
from llm.data.normalize import NormalizeParams

OFF = none.Config()
SLOTS = [field.name for field in fields(FilterParams)]


def slots(**chosen: Any) -> FilterParams:
    """The chosen slots on, all others off."""
    return FilterParams(**dict.fromkeys(SLOTS, OFF) | {"normalize": NormalizeParams()} | chosen)


ALL_OFF = slots()
ON = slots(
    markup=html.Config(),
    quality=quality.Config(),
    simplicity=simplicity.Config(vocabulary=4000, min_share=0.5),
    privacy=pii.Config(),
)
TALE = "The hen and the cat sat in the yard, and it was a warm day; they said nothing of it to the old dog."


def document(name: str, text: str, kind: str = "tales") -> Document:
    return Document(id=name, source="s", kind=kind, licence="l", work=name, text=text)


@dataclass
class Spy(Filter):
    """Notes what it is shown; drops texts with a word, adds a letter to the others."""

    forbidden: str
    needs_fit = True

    def __post_init__(self) -> None:
        self.fitted: list[str] = []

    def fit(self, documents: Iterable[Document]) -> None:
        self.fitted = [document.text for document in documents]

    def judge(self, document: Document) -> Verdict:
        if self.forbidden in document.text:
            return drop("forbidden", document.text, 1.0)
        return keep(document.text + "!", edits={"shouted": 1})


def test_slots_run_in_order_on_what_is_left_and_edited() -> None:
    first, second = Spy("bad"), Spy("worse")
    documents = [document("1", "bad"), document("2", "good"), document("3", "worse"), document("4", "fine")]
    result = filter_documents(documents, {"one": first, "two": second})
    assert first.fitted == ["bad", "good", "worse", "fine"]
    assert second.fitted == ["good!", "worse!", "fine!"]
    assert [kept.text for kept in result.kept] == ["good!!", "fine!!"]
    assert [(d.document, d.reason, d.facts) for d in result.dropped] == [
        (documents[0], "forbidden", {"slot": "one", "score": 1.0}),
        (documents[2], "forbidden", {"slot": "two", "score": 1.0}),
    ]
    assert result.edits == {"one": {"shouted": 3}, "two": {"shouted": 2}}


def test_a_document_left_empty_is_dropped_as_empty() -> None:
    page = "<nav>" + "x" * 10 + "</nav><p></p><br>"
    result = filter_documents(
        [document("page", page), document("blank", "\u200b \n"), document("ok", "ok")],
        {**build_filters(ALL_OFF), "markup": html.Html(html.Config(min_text_frac=0.0))},
    )
    assert [(d.document.text, d.reason, d.facts["slot"]) for d in result.dropped] == [
        (page, "empty", "markup"),
        ("\u200b \n", "empty", "normalize"),
    ]


def test_all_off_still_normalises_and_nothing_else() -> None:
    documents = [document("1", "a\r\nb <b>x</b><br> x@y.org"), document("2", "fuck")]
    result = filter_documents(documents, build_filters(ALL_OFF))
    assert [kept.text for kept in result.kept] == ["a\nb <b>x</b><br> x@y.org", "fuck"]
    assert result.edits["normalize"] == {"normalized": 1}
    assert result.kept[1] is documents[1]


def test_the_slots_are_the_fields_in_order() -> None:
    filters = build_filters(ON)
    assert list(filters) == SLOTS
    on = {slot: type(f).__name__ for slot, f in filters.items() if not isinstance(f, none.NoFilter)}
    assert list(on.values()) == ["Normalize", "Html", "Quality", "Simplicity", "Pii"]
    assert SLOTS[0] == "normalize"
    assert SLOTS[-1] == "privacy"  # placeholders such as <EMAIL> must not be there yet for the slots before


@pytest.mark.parametrize("kind", registry.kinds("llm.data.filters"))
def test_every_kind_fits_every_slot(kind: str) -> None:
    config = registry.module("llm.data.filters", kind).Config()
    for slot in SLOTS[1:]:
        assert type(build_filters(slots(**{slot: config}))[slot]) is type(registry.build(config))


def write_set(folder: Path, train: list[Document], validation: list[Document]) -> None:
    write_documents(folder / "train.jsonl", train)
    write_documents(folder / "validation.jsonl", validation)


def test_the_stage_on_a_small_corpus(tmp_path: Path) -> None:
    train = [
        document("tale", TALE),
        document("page", f"<html><body><p>{TALE}</p></body></html>"),
        document("mail", TALE + " Write to hen@yard.org."),
        document("tiny", "hi"),
        document("rude", "A: what a shit day it was in the yard\nB: and the cat said so too", "chat"),
    ]
    write_set(tmp_path / "in", train, [document("v", "raw\r\n<b>x</b> shit")])
    before = (tmp_path / "in" / "validation.jsonl").read_bytes()
    report = filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", ON)
    kept = {one.id: one.text for one in read_documents(tmp_path / "out" / "train.jsonl")}
    assert kept == {"tale": TALE, "page": TALE, "mail": TALE + " Write to <EMAIL>."}
    assert (tmp_path / "out" / "validation.jsonl").read_bytes() == before
    assert [(d.id, r) for d, r in read_dropped(tmp_path / "gone" / "dropped.jsonl")] == [
        ("tiny", "too_short"),
        ("rude", "swearing"),
    ]
    first = json.loads((tmp_path / "gone" / "dropped.jsonl").read_text("utf-8").splitlines()[0])
    assert (first["slot"], first["score"], first["text"]) == ("quality", 1, "hi")
    assert report["edits"]["markup"] == {"stripped": 1}
    assert report["edits"]["privacy"] == {"email": 1}
    assert report["train"]["kinds"]["chat"]["kept"]["docs"] == 0
    assert report["train"]["edited_away_bytes"] == len("<html><body><p></p></body></html>") + len(
        "hen@yard.org"
    ) - len("<EMAIL>")


def test_an_emptied_corpus_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    write_set(tmp_path / "in", [document("a", "hi"), document("b", "ho"), document("c", "\x00")], [])
    with pytest.raises(ValueError, match=r"left of 3; filter\.quality dropped most \(2 as 'too_short'\)"):
        filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", ON)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def corpus(n_docs: int) -> list[Document]:
    """Tales of common words and, every so often, of rare ones, with markup, with an address, or too short."""
    common = ["the", "hen", "and", "cat", "sat", "in", "yard", "of", "a", "warm", "day", "to", "old", "dog"]
    made = []
    for i in range(n_docs):
        told = [common[(i * 7 + k * k + k) % len(common)] for k in range(40)]
        told[1::2] = [f"{word}x{i}" if i % 5 == 0 else word for word in told[1::2]]
        text = " ".join(told) + (" Write to hen@yard.org." if i % 7 == 0 else "")
        text = (
            f"<html><body><p>{text}</p></body></html>" if i % 11 == 0 else text[: 20 if i % 13 == 0 else None]
        )
        made.append(document(f"d{i}", text, "chat" if i % 3 == 0 else "tales"))
    return made


FITTED = slots(
    markup=html.Config(),
    quality=quality.Config(),
    simplicity=simplicity.Config(vocabulary=14, min_share=0.6),
    privacy=pii.Config(),
)


def test_batches_and_passes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in small batches, two passes because of the fit: the same as all documents at once."""
    documents = corpus(120)
    write_set(tmp_path / "in", documents, [])
    monkeypatch.setenv("LLM_WORKERS", "1")
    for module in (document_module, filter_module):
        monkeypatch.setattr(module, "BATCH_BYTES", 2000)
    expected = filter_documents(documents, build_filters(FITTED))
    assert {d.reason for d in expected.dropped} == {"too_short", "not_simple"}
    report = filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", FITTED)
    assert list(read_documents(tmp_path / "out" / "train.jsonl")) == expected.kept
    assert list(iter_dropped(tmp_path / "gone" / "dropped.jsonl")) == expected.dropped
    assert report["train"] == funnel(documents, expected.kept, expected.dropped)
    assert report["edits"] == expected.edits
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.jsonl", "validation.jsonl"]


def test_a_pass_ends_before_every_fit() -> None:
    fitted, plain = Spy("x"), none.NoFilter(OFF)
    of = [
        list(together) for together in passes({"a": plain, "b": plain, "c": fitted, "d": fitted, "e": plain})
    ]
    assert of == [["a", "b"], ["c"], ["d", "e"]]
    assert [list(together) for together in passes({"a": fitted, "b": plain})] == [["a", "b"]]


def test_a_fit_may_read_the_corpus_more_than_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def fit(self: Filter, documents: Iterable[Document]) -> None:
        seen.extend([document.id for document in documents] for _ in range(2))

    monkeypatch.setattr(simplicity.Simplicity, "fit", fit)
    write_set(tmp_path / "in", [document("a", TALE), document("b", "hi"), document("c", TALE)], [])
    with pytest.raises(ValueError, match="simplicity dropped most"):
        filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", FITTED)
    assert seen == [["a", "c"], ["a", "c"]]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_WORKERS", "1")
    for module in (document_module, filter_module):
        monkeypatch.setattr(module, "BATCH_BYTES", 1 << 15)
    long = [document(f"d{i}", TALE * 40 if i % 4 else "\ufffd " * 800) for i in range(500)]
    write_set(tmp_path / "in", long, [])
    size = (tmp_path / "in" / "train.jsonl").stat().st_size
    peaks = []
    for _ in range(2):  # the first run also pays for imports and caches
        tracemalloc.start()
        filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", ALL_OFF)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert size > 1_500_000
    assert peaks[1] < size / 4, peaks


class Asks(Filter):
    """Wants the benchmarks."""

    needs_references = True

    def refer(self, benchmarks: Mapping[str, Iterable[str]]) -> None:
        self.told = {name: list(texts) for name, texts in benchmarks.items()}


def test_benchmarks_are_read_only_for_those_who_ask(tmp_path: Path) -> None:
    refer(build_filters(ALL_OFF), None)
    with pytest.raises(ValueError, match=r"^filter\.contamination: needs the benchmarks; .*--references"):
        refer({"markup": none.NoFilter(OFF), "contamination": Asks()}, None)


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_module, "BATCH_BYTES", 500)
    write_set(tmp_path / "in", corpus(30), [])
    lines = (tmp_path / "in" / "train.jsonl").read_bytes().splitlines(keepends=True)
    lines[17] = b'{"id": "\xff"}\n'
    (tmp_path / "in" / "train.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"train\.jsonl:18: not a document"):
        filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", ON)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_missing_input_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl: no such file"):
        filter_set(tmp_path / "in", tmp_path / "out", tmp_path / "gone", ON)
