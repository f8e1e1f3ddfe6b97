"""Statistics of word counts on tables with known answers."""

import itertools
import random
from collections import Counter

import pytest

from llm.data.word_counts import coverage, growth, heaps_fit, ranked, type_token_ratio, zipf_fit


def zipfian(slope: float, size: int) -> Counter[str]:
    return Counter({f"w{rank:04d}": round(1e9 * rank**slope) for rank in range(1, size + 1)})


@pytest.mark.parametrize("slope", [-0.8, -1.0, -1.3])
def test_the_slope_of_a_power_law_is_found(slope: float) -> None:
    line = zipf_fit(zipfian(slope, 500), 10, 400)
    assert line is not None
    assert line.slope == pytest.approx(slope, abs=1e-4)
    assert line.r2 == pytest.approx(1.0, abs=1e-6)
    assert line.count(100) == pytest.approx(1e9 * 100**slope, rel=1e-3)


def test_ranks_outside_the_window_do_not_count() -> None:
    counts = zipfian(-1.0, 300)
    counts["w0001"] = 10**12
    line = zipf_fit(counts, 2, 300)
    assert line is not None
    assert line.slope == pytest.approx(-1.0, abs=1e-4)


def test_r2_falls_when_the_line_does_not_fit() -> None:
    line = zipf_fit(Counter({"a": 100, "b": 100, "c": 100, "d": 1}), 1, 4)
    assert line is not None
    assert line.r2 < 0.8


def test_too_few_words_give_no_line() -> None:
    assert zipf_fit(zipfian(-1.0, 11), 10, 1000) is None
    assert zipf_fit(Counter(), 1, 10) is None


def test_type_token_ratio_is_the_expectation_over_all_samples() -> None:
    # every way to draw two of a a a b with replacement: 9/16 aa, 1/16 bb, 6/16 both -> 22/16 types
    counts = Counter(a=3, b=1)
    draws = list(itertools.product("aaab", repeat=2))
    expected = sum(len(set(draw)) for draw in draws) / len(draws) / 2
    approximate = type_token_ratio(counts.values(), counts.total(), 2)
    assert abs(approximate - expected) < 0.03
    assert approximate == pytest.approx((1 - 0.5**3 + 1 - 0.5) / 2)


def test_a_sample_as_large_as_the_text_is_the_plain_ratio() -> None:
    assert type_token_ratio([3, 1], 4, 100) == 0.5
    assert type_token_ratio([], 0, 100) == 0.0


def test_coverage() -> None:
    counts = Counter(a=6, b=3, c=1)
    assert [coverage(counts, counts.total(), size) for size in (1, 2, 3, 10)] == [0.6, 0.9, 1.0, 1.0]
    assert coverage(Counter(), 0, 5) == 0.0


def test_ties_are_ranked_by_spelling() -> None:
    assert ranked(Counter("bca")) == ranked(Counter("acb")) == [("a", 1), ("b", 1), ("c", 1)]


def test_growth_counts_the_words_met_so_far() -> None:
    text = ["a", "b", "a", "c", "a", "a", "d", "b"]
    first = [text.index(word) for word in dict.fromkeys(text)]
    assert growth(first, len(text), points=1000) == [(n, len(set(text[:n]))) for n in range(1, 9)]
    assert growth([], 0) == []


@pytest.mark.parametrize(("k", "beta"), [(3.0, 0.7), (44.0, 0.5)])
def test_the_constants_of_heaps_law_are_found(k: float, beta: float) -> None:
    first = [int((types / k) ** (1 / beta)) for types in range(1, 40_000)]
    law = heaps_fit(growth(first, first[-1] + 1), 1000)
    assert law is not None
    assert law.beta == pytest.approx(beta, abs=2e-3)
    assert law.k == pytest.approx(k, rel=0.03)
    assert law.types(first[20_000]) == pytest.approx(20_000, rel=0.01)


@pytest.mark.parametrize("exponent", [1.3, 1.6])
def test_words_drawn_by_zipfs_law_obey_both_laws(exponent: float) -> None:
    """Independent draws with P(rank r) ~ r^-a: the slope is -a and, for a > 1, beta tends to 1/a (van Leijenhorst)."""
    rng = random.Random(1)
    ranks = range(1, 300_001)
    text = rng.choices(ranks, weights=[rank**-exponent for rank in ranks], k=200_000)
    counts: Counter[str] = Counter(map(str, text))
    line = zipf_fit(counts, 5, 200)
    assert line is not None
    assert line.slope == pytest.approx(-exponent, abs=0.05)
    first: dict[int, int] = {}
    for position, word in enumerate(text):
        first.setdefault(word, position)
    law = heaps_fit(growth(list(first.values()), len(text)), 1000)
    assert law is not None
    assert law.beta == pytest.approx(1 / exponent, abs=0.05)
    assert law.r2 > 0.995


def test_too_short_a_text_obeys_no_law() -> None:
    assert heaps_fit([(10, 5), (2000, 400), (3000, 500)], 1000) is None
