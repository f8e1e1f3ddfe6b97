import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer import lattice as one
from llm.tokenizer.lattices import Lattices

PIECES = {"a": -2.0, "b": -2.5, "c": -3.0, "ab": -3.0, "bc": -5.5, "abc": -6.0, "aa": -4.0, "cab": -4.25}
NAMES = list(PIECES)
SCORES = np.array(list(PIECES.values()))


def build(words: list[str], counts: list[int], names: list[str]) -> Lattices:
    """Edges in any order: the class must sort them."""
    edges = [
        (number, start, end, names.index(word[start:end]))
        for number, word in enumerate(words)
        for start in reversed(range(len(word)))
        for end in range(start + 1, len(word) + 1)
        if word[start:end] in names
    ]
    word, start, end, piece = np.array(edges).reshape(-1, 4).T
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    return Lattices(lengths, np.array(counts, dtype=np.float64), word, start, end, piece.astype(np.int32))


WORDS = st.dictionaries(
    st.text("abc", min_size=1, max_size=9), st.integers(1, 50), min_size=1, max_size=12
).map(lambda counts: dict(sorted(counts.items(), key=lambda item: -len(item[0]))))


@settings(max_examples=150, deadline=None)
@given(counts=WORDS, kept=st.lists(st.booleans(), min_size=5, max_size=5))
def test_all_at_once_equals_one_by_one(counts: dict[str, int], kept: list[bool]) -> None:
    words = list(counts)
    lattices = build(words, list(counts.values()), NAMES)
    mask = np.array([True] * 3 + kept)
    for names, drop in ((NAMES, False), ([n for n, stays in zip(NAMES, mask, strict=True) if stays], True)):
        if drop:
            lattices.keep(mask)
        pieces = {name: PIECES[name] for name in names}
        scores = np.array(list(pieces.values()))
        assert lattices.expected_counts(scores) == pytest.approx(expected(counts, pieces, names), abs=1e-9)
        owners, on_path = lattices.best_paths(scores)
        for number, word in enumerate(words):  # paths come from the end backwards
            path = [names[piece] for piece in on_path[owners == number]]
            assert path[::-1] == one.viterbi(word, pieces, 3)


def expected(counts: dict[str, int], pieces: dict[str, float], names: list[str]) -> list[float]:
    total = dict.fromkeys(names, 0.0)
    for word, count in counts.items():
        edges = one.lattice(word, pieces, 3)
        alpha, beta = one.forward(word, edges), one.backward(word, edges)
        for start, end, score in edges:
            total[word[start:end]] += count * np.exp(alpha[start] + score + beta[end] - alpha[-1])
    return list(total.values())


def test_probabilities_too_small_for_a_float_do_not_vanish() -> None:
    lattices = build(["a" * 2000], [3], ["a", "aa"])
    scores = np.array([-20.0, -45.0])
    counts = lattices.expected_counts(scores)
    assert counts[0] + 2 * counts[1] == pytest.approx(3 * 2000)


def test_no_words() -> None:
    none = np.zeros(0, dtype=np.int64)
    lattices = Lattices(none, none.astype(float), none, none, none, none.astype(np.int32))
    assert lattices.expected_counts(SCORES).tolist() == [0.0] * len(SCORES)
    assert [len(found) for found in lattices.best_paths(SCORES)] == [0, 0]
