"""Kneser–Ney: equal to nltk, equal to the definition in plain Python, a distribution after every context."""

import math
from collections import Counter
from functools import cache
from itertools import product
from random import Random

import numpy as np
import pytest

from llm.data.kneser_ney import FALLBACK, KneserNey, estimate_discounts, find, fit, rooms

B = 0  # the boundary


def framed(lines: list[list[int]]) -> np.ndarray:
    return np.array([B, *(token for line in lines for token in [*line, B])])


def fitted(lines: list[list[int]], order: int, n_words: int, **options) -> KneserNey:
    ids = framed(lines)
    return fit(ids, rooms(ids, B), order=order, n_words=n_words, boundary=B, **options)


def probability(model: KneserNey, context: tuple[int, ...], word: int) -> float:
    ids = np.array([*context, word])
    return math.exp(model.logp(ids, np.arange(len(ids)))[-1])


def random_lines(seed: int, n_lines: int, n_words: int) -> list[list[int]]:
    draw = Random(seed)
    weights = [1 / rank for rank in range(1, n_words)]
    return [draw.choices(range(1, n_words), weights, k=draw.randint(1, 9)) for _ in range(n_lines)]


class ByDefinition:
    """The same model as a reader of the equations would write it: dictionaries of tuples, recursion."""

    def __init__(self, lines: list[list[int]], order: int, n_words: int, discounts, min_counts=()):
        self.order, self.n_words, self.given = order, n_words, discounts
        self.least = [*min_counts, *[1] * order][:order]
        self.count: Counter[tuple[int, ...]] = Counter()
        for line in lines:
            tokens = (B, *line, B)
            for end in range(2, len(tokens) + 1):
                for start in range(max(0, end - order), end):
                    self.count[tokens[start:end]] += 1
        self.probability = cache(self._probability)  # type: ignore[method-assign]

    @cache  # noqa: B019
    def adjusted(self, ngram: tuple[int, ...]) -> int:
        if len(ngram) == self.order or (len(ngram) > 1 and ngram[0] == B):
            return self.count[ngram]
        return len(
            {longer[0] for longer in self.count if len(longer) == len(ngram) + 1 and longer[1:] == ngram}
        )

    @cache  # noqa: B019
    def discounts(self, length: int) -> tuple[float, float, float]:
        if self.given:
            return self.given[length - 1]
        counts = Counter(self.adjusted(ngram) for ngram in self.count if len(ngram) == length)
        n = [counts[k] for k in range(5)]
        if 0 in n[1:]:
            return FALLBACK
        y = n[1] / (n[1] + 2 * n[2])
        d = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        return d if all(0 < x <= k for k, x in enumerate(d, 1)) else FALLBACK

    def _probability(self, context: tuple[int, ...], word: int) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        lower = self.probability(context[1:], word) if context else 1 / self.n_words
        total = sum(self.adjusted((*context, w)) for w in range(self.n_words) if (*context, w) in self.count)
        if total == 0:
            return lower
        kept = {w: self.kept((*context, w)) for w in range(self.n_words)}
        return (kept[word] + (total - sum(kept.values())) * lower) / total

    def kept(self, ngram: tuple[int, ...]) -> float:
        if self.count[ngram] < (self.least[len(ngram) - 1] if len(ngram) > 1 else 1):
            return 0.0
        count = self.adjusted(ngram)
        return count - self.discounts(len(ngram))[min(count, 3) - 1] if count else 0.0


def test_equal_to_nltk() -> None:
    """nltk counts no line ends of its own, so the text is one line that ends as it began."""
    from nltk.lm import KneserNeyInterpolated
    from nltk.util import everygrams

    line = [token for part in random_lines(3, 60, 8) for token in part]
    line += line[:3]
    oracle = KneserNeyInterpolated(order=3, discount=0.1)
    words = [str(token) for token in line]
    oracle.fit([list(everygrams(words, max_len=3))], vocabulary_text=words)
    ids = np.array(line)
    discounts = [(0.0, 0.0, 0.0), (0.1, 0.1, 0.1), (0.1, 0.1, 0.1)]
    with np.errstate(divide="ignore"):  # the boundary never occurs
        ours = fit(ids, np.arange(len(ids)), order=3, n_words=8, discounts=discounts)
    for context in [(), *product(range(1, 8), repeat=1), *product(range(1, 8), repeat=2)]:
        for word in range(1, 8):
            theirs = oracle.score(str(word), [str(token) for token in context])
            assert probability(ours, context, word) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("discounts", [None, 0.75], ids=["modified", "fixed"])
@pytest.mark.parametrize("min_counts", [(), (1, 1, 2, 2)], ids=["all", "pruned"])
def test_equal_to_the_definition(order: int, discounts: float | None, min_counts: tuple[int, ...]) -> None:
    lines = random_lines(7, 25, 7)
    given = [(discounts,) * 3] * order if discounts else None
    ours = fitted(lines, order, 8, discounts=given, min_counts=min_counts)
    theirs = ByDefinition(lines, order, 8, given, min_counts)
    np.testing.assert_allclose(ours.discounts, [theirs.discounts(n) for n in range(1, order + 1)], rtol=1e-12)
    draw = Random(1)
    contexts = [(), (B,), *(tuple(draw.choices(range(1, 8), k=k)) for k in (1, 2, 3) for _ in range(12))]
    contexts += [(B, *context) for context in contexts[2::5]]
    for context in contexts:
        for word in range(8):
            expected = theirs.probability(context, word)
            assert probability(ours, context, word) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("min_counts", [(), (1, 1, 2, 3, 3)], ids=["all", "pruned"])
@pytest.mark.parametrize("discounts", [None, [(0.75, 0.75, 0.75)] * 5], ids=["modified", "fixed"])
def test_a_distribution_after_every_context(discounts, min_counts) -> None:
    lines = random_lines(5, 200, 19)  # word 19 is never seen
    model = fitted(lines, 5, 20, discounts=discounts, min_counts=min_counts)
    draw = Random(2)
    seen = [tuple(line[:k]) for line in lines[:30] for k in (1, 2, 3, 4) if len(line) >= k]
    unseen = [tuple(draw.choices(range(1, 20), k=4)) for _ in range(30)]
    for context in [(), (B,), (19,), (B, 19, 19), *seen, *unseen]:
        every = [probability(model, context, word) for word in range(20)]
        assert min(every) > 0
        assert sum(every) == pytest.approx(1.0, abs=1e-12)


def test_by_hand() -> None:
    """Lines `1 2` and `1 2` and `3 2`, two words back, discount 0.5: every number from the equations."""
    half = (0.5, 0.5, 0.5)
    model = fitted([[1, 2], [1, 2], [3, 2]], 2, 4, discounts=[half, half])
    # after how many different words does each come: B after 2; 1 after B; 2 after 1 and 3; 3 after B. Five pairs.
    uniform = 0.5 * 4 / 5 / 4  # four words are discounted, over four words
    p1, p2 = 0.5 / 5 + uniform, 1.5 / 5 + uniform
    assert probability(model, (), 1) == pytest.approx(p1)
    assert probability(model, (), 2) == pytest.approx(p2)
    # after the boundary: 1 twice, 3 once
    assert probability(model, (B,), 1) == pytest.approx(1.5 / 3 + 1 / 3 * p1)
    assert probability(model, (B,), 2) == pytest.approx(1 / 3 * p2)
    # after 1: 2 twice
    assert probability(model, (1,), 2) == pytest.approx(1.5 / 2 + 0.5 / 2 * p2)


def test_discounts_by_hand() -> None:
    adjusted = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4] * 1 + [9])
    y = 8 / (8 + 2 * 4)
    expected = (1 - 2 * y * 4 / 8, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2)
    assert estimate_discounts(adjusted) == pytest.approx(expected)
    assert estimate_discounts(np.array([1, 1, 2, 3])) == FALLBACK  # no count of four
    assert estimate_discounts(np.array([1] * 9 + [2, 3, 3, 3, 4])) == FALLBACK  # D2 < 0


def test_ngrams_do_not_reach_over_a_line_end() -> None:
    ids = np.array([B, 1, 2, B, 1, B, B, 3])
    assert rooms(ids, B).tolist() == [-1, 1, 2, 3, 1, 2, 1, 1]
    model = fitted([[1, 2], [1, 3], [2, 2]], 3, 4)
    one, two = np.array([B, 1, 2, B]), np.array([B, 1, 2, B, 2, 2, B])
    np.testing.assert_array_equal(model.logp(two, rooms(two, B))[:4], model.logp(one, rooms(one, B)))
    alone = np.array([B, 2, 2, B])
    np.testing.assert_array_equal(model.logp(two, rooms(two, B))[4:], model.logp(alone, rooms(alone, B))[1:])


def test_order_of_the_lines_does_not_matter() -> None:
    lines = random_lines(4, 50, 9)
    ids = framed(lines)
    one, other = fitted(lines, 3, 10), fitted(lines[::-1], 3, 10)
    np.testing.assert_array_equal(one.logp(ids, rooms(ids, B)), other.logp(ids, rooms(ids, B)))


def test_pruning_drops_rare_ngrams_and_those_above_them() -> None:
    lines = random_lines(6, 300, 15)
    full, pruned = fitted(lines, 4, 16), fitted(lines, 4, 16, min_counts=(1, 1, 2, 2))
    sizes = [[len(table.keys_G) for table in model.tables] for model in (full, pruned)]
    assert sizes[0][:2] == sizes[1][:2]
    assert all(small < large for small, large in zip(sizes[1][2:], sizes[0][2:], strict=True))


@pytest.mark.parametrize("lines", [[], [[]], [[1]]])
def test_nearly_nothing_to_learn_from(lines: list[list[int]]) -> None:
    model = fitted(lines, 3, 4)
    assert sum(probability(model, (B,), word) for word in range(4)) == pytest.approx(1.0)


def test_compact_is_the_same_to_six_digits() -> None:
    lines = random_lines(8, 100, 20)
    model, ids = fitted(lines, 3, 21), framed(lines)
    room = rooms(ids, B)
    np.testing.assert_allclose(model.compact().logp(ids, room), model.logp(ids, room), rtol=1e-5, atol=1e-6)
    assert model.compact().tables[1].logp_G.dtype == np.float32


def test_find() -> None:
    keys = np.array([2, 5, 9])
    assert find(keys, np.array([1, 2, 5, 6, 9, 10])).tolist() == [-1, 0, 1, -1, 2, -1]
