import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer.lattice import Pieces, backward, forward, lattice, n_best, sample, viterbi

PIECES: Pieces = {
    "d": -3.0,
    "u": -3.5,
    "c": -4.0,
    "k": -4.0,
    "du": -3.0,
    "uck": -4.5,
    "ck": -3.25,
    "duck": -6.0,
}
WORDS = st.text("abc", min_size=1, max_size=8)
VOCABULARIES = st.dictionaries(
    st.text("abc", min_size=2, max_size=4), st.integers(-64, -1).map(lambda score: score / 8), max_size=14
).map(lambda pieces: {"a": -2.0, "b": -2.5, "c": -3.0, **pieces})


def segmentations(word: str, pieces: Pieces) -> dict[tuple[str, ...], float]:
    """Every way to cut the word, by trying every set of cuts."""
    found = {}
    for cuts in itertools.product((False, True), repeat=len(word) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(word)]
        path = tuple(word[a:b] for a, b in itertools.pairwise(places))
        if all(piece in pieces for piece in path):
            found[path] = sum(pieces[piece] for piece in path)
    return found


def test_the_lattice_of_the_page() -> None:
    assert [("duck"[start:end], score) for start, end, score in lattice("duck", PIECES, 4)] == [
        ("d", -3.0),
        ("du", -3.0),
        ("u", -3.5),
        ("c", -4.0),
        ("duck", -6.0),
        ("uck", -4.5),
        ("ck", -3.25),
        ("k", -4.0),
    ]
    assert len(segmentations("duck", PIECES)) == 6


@settings(max_examples=150, deadline=None)
@given(word=WORDS, pieces=VOCABULARIES)
def test_sums_equal_enumeration(word: str, pieces: Pieces) -> None:
    every = segmentations(word, pieces)
    total = sum(math.exp(score) for score in every.values())
    edges = lattice(word, pieces, 4)
    alpha, beta = forward(word, edges), backward(word, edges)
    assert alpha[-1] == pytest.approx(math.log(total), abs=1e-9)
    assert beta[0] == pytest.approx(math.log(total), abs=1e-9)
    # How often each edge is expected: the share of the segmentations that hold it.
    for start, end, score in edges:
        share = sum(math.exp(s) for path, s in every.items() if (start, end) in spans(path)) / total
        assert math.exp(alpha[start] + score + beta[end] - alpha[-1]) == pytest.approx(share, abs=1e-9)


def spans(path: tuple[str, ...]) -> set[tuple[int, int]]:
    ends = list(itertools.accumulate(map(len, path)))
    return set(zip([0, *ends], ends, strict=False))


@settings(max_examples=150, deadline=None)
@given(word=WORDS, pieces=VOCABULARIES, n=st.integers(1, 12))
def test_best_and_n_best_equal_enumeration(word: str, pieces: Pieces, n: int) -> None:
    every = segmentations(word, pieces)
    found = n_best(word, pieces, n, 4)
    assert [score for score, _ in found] == sorted(every.values(), reverse=True)[:n]
    assert len({tuple(path) for _, path in found}) == len(found)
    assert all(every[tuple(path)] == score for score, path in found)
    assert viterbi(word, pieces, 4) == found[0][1]


def test_of_equal_paths_the_one_with_the_longer_last_piece() -> None:
    pieces = {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -2.0, "bc": -2.0}
    assert viterbi("abc", pieces, 2) == ["a", "bc"]


def test_pieces_longer_than_the_limit_are_not_seen() -> None:
    assert viterbi("duck", PIECES, 4) == ["duck"]
    assert viterbi("duck", PIECES, 3) == ["du", "ck"]


def test_a_character_that_is_no_piece() -> None:
    assert viterbi("duxk", PIECES, 4, unknown=-20.0) == ["du", "x", "k"]
    assert lattice("x", PIECES, 4) == []


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_samples_have_the_probabilities_of_enumeration(alpha: float) -> None:
    every = segmentations("duck", PIECES)
    weights = {path: math.exp(alpha * score) for path, score in every.items()}
    generator, n = random.Random(7), 20_000
    drawn = Counter(tuple(sample("duck", PIECES, 4, alpha, generator)) for _ in range(n))
    assert set(drawn) <= set(every)
    for path, weight in weights.items():
        expected = weight / sum(weights.values())
        assert drawn[path] / n == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / n))
