import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer.merges import Corpus, Pair, by_frequency, by_likelihood, learn, replace

WORDS = st.lists(
    st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 4)), min_size=1
)


def count(words: list[list[int]], counts: list[int]) -> tuple[Counter[Pair], Counter[int]]:
    pairs: Counter[Pair] = Counter()
    single: Counter[int] = Counter()
    for word, n in zip(words, counts, strict=True):
        for index in word:
            single[index] += n
        for pair in itertools.pairwise(word):
            pairs[pair] += n
    return pairs, single


@settings(max_examples=200, deadline=None)
@given(words=WORDS, seed=st.integers(0, 99))
def test_counts_after_every_merge_are_those_counted_anew(
    words: list[tuple[list[int], int]], seed: int
) -> None:
    corpus = Corpus(words)
    rng = random.Random(seed)
    for token in range(4, 9):
        pairs = [pair for pair, n in corpus.pairs.items() if n]
        if not pairs:
            break
        pair = rng.choice(pairs)
        expected = [replace(word, pair, token) for word in corpus.words]
        before = Counter(corpus.pairs)
        changed = corpus.merge(pair, token)
        assert corpus.words == expected
        pairs_now, single = count(corpus.words, corpus.counts)
        assert +corpus.pairs == pairs_now
        assert +corpus.tokens == single
        assert sorted(changed) == sorted(p for p in {*before, *pairs_now} if before[p] != pairs_now[p])
        for other in pairs_now:
            holders = {i for i, word in enumerate(corpus.words) if other in itertools.pairwise(word)}
            assert holders <= corpus.where[other]


def test_replace_is_left_to_right() -> None:
    assert replace([7, 7, 7, 5], (7, 7), 9) == [9, 7, 5]
    assert replace([7, 7, 7, 7], (7, 7), 9) == [9, 9]
    assert replace([1, 2, 1, 2, 2], (1, 2), 3) == [3, 3, 2]
    assert replace([3], (3, 3), 4) == [3]


@settings(max_examples=150, deadline=None)
@given(words=WORDS, least=st.integers(1, 4))
@pytest.mark.parametrize("rule", [by_frequency, by_likelihood])
def test_every_merge_is_the_best_there_is(
    rule: object, words: list[tuple[list[int], int]], least: int
) -> None:
    """By brute force: every pair is counted and scored again before every merge."""
    corpus = Corpus(words)
    plain, counts = [list(word) for word, _ in words], [n for _, n in words]
    fresh = itertools.count(4)
    names: dict[Pair, int] = {}

    def name(pair: Pair) -> int:
        names[pair] = next(fresh)
        return names[pair]

    for pair in itertools.islice(rule(corpus, least, name), 12):  # type: ignore[operator]
        pairs, single = count(plain, counts)

        def order(other: Pair, pairs: Counter[Pair] = pairs, single: Counter[int] = single) -> tuple:
            score = pairs[other] / (single[other[0]] * single[other[1]]) if rule is by_likelihood else 0
            return (-score, -pairs[other], other)

        assert pair == min((other for other in pairs if pairs[other] >= least), key=order)
        plain = [replace(word, pair, names[pair]) for word in plain]
        assert corpus.words == plain
    if len(names) < 12:
        assert all(n < least for n in count(plain, counts)[0].values())


def test_learning_stops_at_the_size_and_not_one_merge_later() -> None:
    def run(size: int) -> tuple[list[str], list[tuple[str, str]]]:
        tokens = ["a", "b"]
        merges = learn(
            tokens,
            [(list("abab"), 3), (list("b"), 1)],
            join=str.__add__,
            rule=by_frequency,
            vocab_size=size,
            min_count=1,
        )
        return tokens, merges

    assert run(2) == (["a", "b"], [])
    assert run(3) == (["a", "b", "ab"], [("a", "b")])
    assert run(9) == (["a", "b", "ab", "abab"], [("a", "b"), ("ab", "ab")])  # pairs run out


def test_a_string_that_is_already_a_token_keeps_its_id() -> None:
    tokens = ["ab", "a", "b", "c"]
    learn(tokens, [(list("abc"), 3)], join=str.__add__, rule=by_frequency, vocab_size=6, min_count=1)
    assert tokens == ["ab", "a", "b", "c", "abc"]
