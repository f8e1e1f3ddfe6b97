"""Repeated n-grams against counting every n-gram of every document by hand."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.ngrams import Frequent, Listed, most_repeated, repeated_share, repeats

DOCUMENTS = st.lists(st.lists(st.sampled_from("abc"), max_size=14), min_size=1, max_size=5)


def numbered(documents: list[list[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    words = sorted({word for document in documents for word in document})
    ids = np.array([words.index(word) for document in documents for word in document], dtype=np.int64)
    document = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    return words, ids, document


def grams(document: list[str], n: int) -> list[str]:
    return [" ".join(document[i : i + n]) for i in range(len(document) - n + 1)]


@given(DOCUMENTS)
@settings(max_examples=60, deadline=None)
def test_repeated_share_is_one_minus_distinct_over_all(documents: list[list[str]]) -> None:
    _, ids, document = numbered(documents)
    shares = repeated_share(ids, document, len(documents), 6)
    assert shares.shape == (len(documents), 5)
    for row, members in zip(shares, documents, strict=True):
        for n, share in enumerate(row, 2):
            found = grams(members, n)
            assert share == pytest.approx(1 - len(set(found)) / len(found) if found else 0)


@given(DOCUMENTS)
@settings(max_examples=60, deadline=None)
def test_repeats_finds_every_ngram_that_occurs_twice_and_counts_it(documents: list[list[str]]) -> None:
    words, ids, document = numbered(documents)
    rounds = list(repeats(ids, document, 5, within=False))
    assert [found.n for found in rounds] == [2, 3, 4, 5]
    for found in rounds:
        counts = Counter(gram for members in documents for gram in grams(members, found.n))
        again = {gram: count for gram, count in counts.items() if count > 1}
        assert most_repeated(found, words, ids, 10_000).counts == again


def test_the_list_of_a_batch_is_cut_and_says_what_it_leaves_out() -> None:
    documents = [list("ababab"), list("cdcdcd"), list("ef"), list("ef")]
    words, ids, document = numbered(documents)
    found = next(repeats(ids, document, 2, within=False))
    assert most_repeated(found, words, ids, 3) == Listed({"a b": 3, "c d": 3, "b a": 2}, 2)
    assert most_repeated(found, words, ids, 5) == Listed(
        {"a b": 3, "c d": 3, "b a": 2, "d c": 2, "e f": 2}, 1
    )


def test_no_words_no_repetition() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert (repeated_share(none, none, 2, 4) == np.zeros((2, 3))).all()
    assert [len(found.starts_R) for found in repeats(none, none, 3, within=False)] == [0, 0]


@pytest.mark.parametrize("size", [3, 10, 40])
@pytest.mark.parametrize("seed", range(4))
def test_the_true_count_lies_in_the_bounds(size: int, seed: int) -> None:
    rng = random.Random(seed)
    true: Counter[str] = Counter()
    frequent = Frequent(size)
    for _ in range(30):
        batch = Counter(f"{min(int(rng.paretovariate(0.7)), 200)}" for _ in range(60))
        true += batch
        listed = [(gram, count) for gram, count in batch.most_common(12) if count > 1]
        rest = batch.most_common(13)[len(listed) :]
        frequent.add(Listed(dict(listed), max((count for _, count in rest), default=0)))
        assert len(frequent.entries) <= 2 * size
        for gram, (count, slack) in frequent.entries.items():
            assert count <= true[gram] <= count + slack + frequent.left_out
        assert all(true[gram] <= frequent.missed for gram in true if gram not in frequent.entries)
    top = frequent.top(2)
    assert [entry.gram for entry in top] == [gram for gram, _ in true.most_common(2)]
    assert top[0].error == 0  # in every batch's list


def test_ties_are_ranked_by_spelling() -> None:
    frequent = Frequent(10)
    frequent.add(Listed({"b c": 2, "a b": 2, "z z": 5}, 1))
    assert [entry.gram for entry in frequent.top(3)] == ["z z", "a b", "b c"]
