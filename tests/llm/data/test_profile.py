"""Profiles: counts of batches put together are the counts of the whole, whoever counts them and in what batches."""

import random
import weakref
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from llm.data.document import Document
from llm.data.profile import ALL, Profile, batches, count_batch, profiles
from llm.data.words import words


def document(name: str, text: str, kind: str = "tales") -> Document:
    return Document(id=name, source="s", kind=kind, licence="l", work=name, text=text)


def corpus(n: int = 40) -> list[Document]:
    rng = random.Random(5)
    kinds = ["chat", "poetry", "tales"]
    texts = [
        "\n".join(" ".join(f"w{min(int(rng.paretovariate(0.9)), 300)}" for _ in range(9)) for _ in range(6))
        for _ in range(n)
    ]
    return [document(f"d{i}", f"{text}\n床前明月光", kinds[i % 7 % 3]) for i, text in enumerate(texts)]


def found(profile: Profile) -> dict[str, object]:
    """Everything a profile says; within a batch the documents of one kind are counted before those of the next."""
    return {
        "docs": profile.docs,
        "bytes": profile.text_bytes,
        "packed": profile.compressed_bytes,
        "counts": profile.types.counts,
        "first": profile.types.sample()[1],
        "lengths": sorted(profile.lengths),
        "letters": profile.letters,
        "languages": profile.languages,
        "repeated": sorted(profile.repeated_share().tolist()),
        "lines": profile.duplicate_share("lines"),
        "paragraphs": profile.duplicate_share("paragraphs"),
    }


@pytest.mark.parametrize("n_chars", [1, 900, 10**9])
def test_where_batches_end_changes_nothing(n_chars: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_WORKERS", "1")
    documents = corpus()
    expected = {kind: found(profile) for kind, profile in profiles(documents, "").items()}
    result = profiles(documents, "", batch_chars=n_chars)
    assert {kind: found(profile) for kind, profile in result.items()} == expected


def test_a_batch_ends_with_the_document_that_fills_it() -> None:
    documents = [document(f"{i}", "x" * size) for i, size in enumerate((3, 4, 10, 1, 1))]
    assert [[len(d.text) for d in batch] for batch in batches(documents, 5)] == [[3, 4], [10], [1, 1]]
    assert list(batches([], 5)) == []


def test_two_processes_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = corpus(12)
    monkeypatch.setenv("LLM_WORKERS", "1")
    one = profiles(documents, "", batch_chars=1500)
    monkeypatch.setenv("LLM_WORKERS", "2")
    two = profiles(documents, "", batch_chars=1500)
    assert {kind: found(p) for kind, p in one.items()} == {kind: found(p) for kind, p in two.items()}
    tops = [{k: {n: f.top(50) for n, f in p.frequent.items()} for k, p in r.items()} for r in (one, two)]
    assert tops[0] == tops[1]


def test_the_counts_are_those_of_plain_loops() -> None:
    documents = corpus()
    result = profiles(documents, "")
    assert list(result) == ["chat", "poetry", "tales", ALL]
    for kind, profile in result.items():
        members = [d for d in documents if kind in (d.kind, ALL)]
        read = [word for d in members for word in words(d.text)]
        assert profile.types.counts == Counter(read)
        assert [read[position] for position in profile.types.sample()[1]] == list(dict.fromkeys(read))
        assert profile.types.sample()[1] == [read.index(word) for word in dict.fromkeys(read)]
        assert sorted(profile.lengths) == sorted(len(words(d.text)) for d in members)
        lines = [line for d in members for line in d.text.split("\n")]
        assert profile.duplicate_share("lines") == pytest.approx(1 - len(set(lines)) / len(lines))
        assert profile.letters["han"] == 5 * len(members)
        assert profile.languages["zh"] == sum(d.text.count("w") < 5 for d in members)
        bigrams = Counter(pair for d in members for pair in pairwise(words(d.text)))
        best = [(entry.gram, entry.times) for entry in profile.frequent[2].top(3)]
        assert [count for _, count in best] == [count for _, count in bigrams.most_common(3)]
        assert all(bigrams[tuple(gram.split())] == count for gram, count in best)
    tales = "".join(d.text for d in documents if d.kind == "tales").encode()
    assert result["tales"].compressed_bytes == pytest.approx(len(zlib.compress(tales, 6)), abs=8)
    assert result[ALL].compressed_bytes == sum(p.compressed_bytes for k, p in result.items() if k != ALL)


def test_speaker_marks_are_no_part_of_a_repeated_line() -> None:
    result = profiles([document("a", "A: hi\nB: hi\nA: you?\n\n  hi ", "chat")], "")
    assert result["chat"].duplicate_share("lines") == pytest.approx(2 / 4)
    assert result["chat"].duplicate_share("paragraphs") == 0


def test_a_text_without_words_is_counted_too() -> None:
    profile = profiles([document("a", "…"), document("b", "")], "")[ALL]
    assert (profile.docs, list(profile.lengths), dict(profile.types.counts)) == (2, [0, 0], {})
    assert profile.repeated_share().shape == (2, 9)
    assert np.isfinite(profile.repeated_share()).all()


def test_texts_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches of one document each, only a few documents of the stream are alive at any time."""
    monkeypatch.setenv("LLM_WORKERS", "1")
    alive: weakref.WeakSet[Document] = weakref.WeakSet()
    most = 0

    class Text(Document):
        __hash__ = object.__hash__

    def stream() -> Iterator[Document]:
        nonlocal most
        for i in range(50):
            made = Text(id=f"{i}", source="s", kind="tales", licence="l", work="w", text=f"text {i}")
            alive.add(made)
            yield made
            del made
            most = max(most, len(alive))

    assert profiles(stream(), "", batch_chars=1)[ALL].docs == 50
    assert most <= 4


def test_a_batch_of_one_kind_and_a_mixed_one() -> None:
    mixed = count_batch([document("a", "x y", "chat"), document("b", "y z")], max_n=3, listed_n=(2,))
    assert (mixed.types, mixed.first.tolist()) == (["x", "y", "z"], [0, 1, 3])
    single = count_batch([document("b", "y z y")], max_n=3, listed_n=(2,))
    assert (single.types, single.first.tolist()) == (["y", "z"], [0, 1])
