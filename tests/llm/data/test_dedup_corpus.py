"""What de-duplication keeps of a document, the order of the keep-policy, texts on demand."""

import random
from pathlib import Path

import numpy as np
import pytest

from llm.data import dedup_corpus
from llm.data import document as document_module
from llm.data.dedup import exact, minhash
from llm.data.dedup_corpus import Corpus, Ids, Picked, corpus_of_documents, corpus_of_files
from llm.data.document import Document, write_documents
from llm.data.paragraphs import exact as paragraphs
from llm.data.paragraphs import none as no_paragraphs

METHODS = {"exact": exact.Exact(exact.Config()), "near": minhash.MinHash(minhash.Config())}
NONE = no_paragraphs.NoParagraphs(no_paragraphs.Config())


def document(name: str, text: str) -> Document:
    return Document(id=name, source="s", kind="k", licence="l", work=name, text=text)


def of(validation: list[Document], train: list[Document]) -> Corpus:
    return corpus_of_documents(validation, train, {}, NONE)


def test_best_first_is_validation_then_the_longest_then_the_smallest_id() -> None:
    draw = random.Random(1)
    train = [document(draw.choice("abc") + str(n), "x" * draw.randrange(4)) for n in range(40)]
    validation = [document(f"v{n}", "x" * draw.randrange(9)) for n in range(5)]
    got = of(validation, train).best_first().tolist()
    both = [*validation, *train]
    assert got == sorted(range(45), key=lambda row: (row >= 5, -len(both[row].text), both[row].id))


def test_ids_compare_by_code_point() -> None:
    train = [document(name, "x") for name in ("\U0001f642", "é", "z", "\ud800", "￼")]
    order = of([], train).best_first().tolist()
    assert [train[row].id for row in order] == sorted(one.id for one in train)


def test_an_id_that_occurs_twice_is_named() -> None:
    of([document("v", "x")], [document("a", "x")]).require_unique_ids(Path("here"))
    of([], []).require_unique_ids(Path("here"))
    twice = of([document("a", "x"), document("b", "x")], [document("b", "x"), document("c", "y")])
    with pytest.raises(ValueError, match="here: document id 'b' occurs 2 times"):
        twice.require_unique_ids(Path("here"))


@pytest.mark.parametrize("end", ["\n", ""])
def test_files_give_the_same_as_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    train = [document(f"d{n}", f"wörter {n} und noch mehr davon\n\n" * (n + 1)) for n in range(20)]
    validation = [document(f"v{n}", "x " * n) for n in range(3)]
    for name, some in (("train", train), ("validation", validation)):
        write_documents(tmp_path / f"{name}.jsonl", some)
        lines = (tmp_path / f"{name}.jsonl").read_text("utf-8")
        (tmp_path / f"{name}.jsonl").write_text(lines.rstrip("\n") + end, encoding="utf-8")
    monkeypatch.setattr(document_module, "BATCH_BYTES", 500)
    cut = paragraphs.ExactParagraphs(paragraphs.Config(min_words=3))
    want = corpus_of_documents(validation, train, METHODS, cut)
    got = corpus_of_files(tmp_path / "validation.jsonl", tmp_path / "train.jsonl", METHODS, cut, tmp_path)
    assert got.n_validation == want.n_validation == 3
    for name in ("chars", "hashes", "n_hashes"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    for slot in METHODS:
        np.testing.assert_array_equal(got.signatures[slot], want.signatures[slot])
    assert [got.texts[row] for row in range(23)] == [one.text for one in validation + train]
    assert [got.ids[row].decode() for row in range(23)] == [one.id for one in validation + train]
    assert len(got.texts) == len(got.ids) == 23


def test_small_sets_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup_corpus, "map_batches", None)
    for name in ("train", "validation"):
        write_documents(tmp_path / f"{name}.jsonl", [document(name, "x" * 100)] * 20)
    monkeypatch.setattr(document_module, "BATCH_BYTES", 500)
    files = (tmp_path / "validation.jsonl", tmp_path / "train.jsonl")
    assert corpus_of_files(*files, METHODS, NONE, tmp_path).n_validation == 20
    monkeypatch.setattr(dedup_corpus, "_SMALL_BYTES", 1000)
    with pytest.raises(TypeError):
        corpus_of_files(*files, METHODS, NONE, tmp_path)


def test_ids_are_numbered() -> None:
    ids = Ids()
    ids.extend([b"one", b"", b"three"])
    ids.extend([b"four"])
    assert [ids[row] for row in range(len(ids))] == [b"one", b"", b"three", b"four"]
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            ids[outside]


def test_picked_rows_have_an_order_of_their_own() -> None:
    picked = Picked(["a", "b", "c"], np.array([2, 0]))
    assert (len(picked), picked[0], picked[1]) == (2, "c", "a")
