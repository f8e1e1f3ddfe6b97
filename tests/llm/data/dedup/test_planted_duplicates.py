"""Planted copies: what each method finds of them, against what theory expects."""

import random

import numpy as np
import pytest

from benchmarks.planted_duplicates import METHODS, Score, changes, measure, plant

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdklmnrst"]
CASE_AND_LINES = ("none", "re-flowed", "upper case", "lower case", "title case")
N = 120


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of 20 paragraphs of 20 words."""
    draw = random.Random(7)
    paragraphs = [[" ".join(draw.choices(WORDS, k=20)) + "." for _ in range(20)] for _ in range(N)]
    return ["\n\n".join(some) for some in paragraphs]


@pytest.fixture(scope="module")
def scores(texts: list[str]) -> dict[tuple[str, str], Score]:
    return {(score.change, score.method): score for score in measure(texts, METHODS)}


def test_every_method_is_measured_on_every_change(scores: dict[tuple[str, str], Score]) -> None:
    assert len(scores) == len(METHODS) * 12
    assert {score.n_pairs for score in scores.values()} == {N}


def test_no_method_joins_strangers(scores: dict[tuple[str, str], Score]) -> None:
    assert {score.precision for score in scores.values()} == {1.0}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", CASE_AND_LINES)
def test_case_and_line_ends_hide_no_copy(
    scores: dict[tuple[str, str], Score], change: str, method: str
) -> None:
    assert scores[change, method].recall == 1.0


def test_exact_finds_nothing_else(scores: dict[tuple[str, str], Score]) -> None:
    for (change, method), score in scores.items():
        if method == "exact" and change not in (*CASE_AND_LINES, "1% of words"):
            assert score.recall <= 0.02


@pytest.mark.parametrize("method", ["minhash", "minhash, bands alone"])
def test_minhash_finds_what_theory_expects(scores: dict[tuple[str, str], Score], method: str) -> None:
    for (change, name), score in scores.items():
        if name == method:
            expected = score.expected or 0.0
            band = 2.576 * (expected * (1 - expected) / N) ** 0.5
            assert abs(score.recall - expected) <= band + 0.5 / N, change


def test_recall_falls_with_the_rate_of_edits(scores: dict[tuple[str, str], Score]) -> None:
    for method in METHODS:
        recalls = [scores[f"{percent}% of words", method].recall for percent in (1, 2, 5, 10, 20)]
        assert recalls == sorted(recalls, reverse=True)
    assert scores["1% of words", "minhash"].recall > 0.9
    assert scores["1% of words", "simhash"].recall > 0.3
    assert scores["20% of words", "minhash"].recall == 0.0


def test_a_change_is_what_its_name_says(texts: list[str]) -> None:
    named = changes(WORDS)
    text = texts[0]
    words = text.split()
    for name, change in named.items():
        copy = change(text, random.Random(3))
        if name in CASE_AND_LINES:
            assert copy.lower().split() == text.lower().split()
        if name.endswith("% of words"):
            changed = np.mean([a != b for a, b in zip(words, copy.split(), strict=True)])
            assert changed == pytest.approx(int(name.split("%")[0]) / 100, abs=0.03)
            assert copy.count("\n\n") == text.count("\n\n")
    shuffled = named["paragraphs shuffled"](text, random.Random(3))
    assert shuffled != text
    assert sorted(shuffled.split("\n\n")) == sorted(text.split("\n\n"))
    assert text.startswith(named["last fifth cut off"](text, random.Random(3)))
    assert "\n" in named["re-flowed"](text, random.Random(3))


def test_planting_is_reproducible(texts: list[str]) -> None:
    change = changes(WORDS)["10% of words"]
    assert plant(texts, change, 1) == plant(texts, change, 1)
    assert plant(texts, change, 1) != plant(texts, change, 2)
