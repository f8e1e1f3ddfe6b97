"""Bounded counts: exact while there is room, then a sample whose numbers are those of the corpus within chance."""

import random
from collections import Counter

import numpy as np
import pytest

from llm.data.distinct import Hashes, Types


def zipfian(n_words: int, seed: int = 1) -> list[str]:
    """A few frequent words and very many rare ones."""
    draw = np.random.default_rng(seed)
    head = (draw.pareto(0.8, n_words) * 3).astype(np.int64)
    tail = 10**6 + draw.integers(0, n_words // 3, n_words)
    return [f"w{rank}" for rank in np.where(draw.random(n_words) < 0.5, head, tail).tolist()]


def read(words: list[str], size: int, batch: int = 500) -> Types:
    types = Types(size)
    for start in range(0, len(words), batch):
        some = words[start : start + batch]
        first = {word: some.index(word) for word in dict.fromkeys(some)}
        types.meet(first, first.values(), len(some))
        counts = Counter(some)
        types.count(counts, counts.values())
        types.settle()
    return types


def test_while_there_is_room_everything_is_exact() -> None:
    words = zipfian(5000)
    wanted = Counter(words)
    types = read(words, size=len(wanted))
    assert (types.scale, types.missed, types.n_words) == (1, 0, 5000)
    assert types.counts == wanted
    occurrences, first = types.sample()
    assert sorted(occurrences) == sorted(wanted.values())
    assert first == [words.index(word) for word in dict.fromkeys(words)]


def test_beyond_memory_is_bounded_and_numbers_are_near() -> None:
    words, size = zipfian(60_000), 2000
    wanted = Counter(words)
    assert len(wanted) > 8 * size
    types = read(words, size)
    assert len(types.counts) <= size
    occurrences, first = types.sample()
    error = 4 / len(occurrences) ** 0.5
    assert len(occurrences) > 200
    assert types.scale * len(occurrences) == pytest.approx(len(wanted), rel=error)
    once = sum(count == 1 for count in wanted.values()) / len(wanted)
    assert sum(count == 1 for count in occurrences) / len(occurrences) == pytest.approx(once, abs=error / 2)
    half = types.scale * sum(position < 30_000 for position in first)
    assert half == pytest.approx(len(set(words[:30_000])), rel=1.5 * error)
    assert first == sorted(first)


def test_what_is_in_the_sample_was_never_forgotten() -> None:
    words = zipfian(40_000, seed=2)
    types = read(words, size=1000)
    wanted, position = Counter(words), {}
    for place, word in enumerate(words):
        position.setdefault(word, place)
    sample = [word for word in types.counts if types._in_sample(word)]
    assert types.sample() == ([wanted[word] for word in sample], [position[word] for word in sample])


def test_other_counts_are_too_low_by_at_most_what_is_said() -> None:
    words = zipfian(60_000, seed=3)
    types = read(words, size=1500)
    wanted = Counter(words)
    assert types.missed > 0
    for word, count in wanted.items():
        assert 0 <= count - types.counts[word] <= types.missed
    assert types.counts.most_common(30) == wanted.most_common(30)


def test_hashes_are_exact_then_near_and_never_more_than_there_is_room_for() -> None:
    draw = random.Random(4)
    population = [draw.getrandbits(64) for _ in range(20_000)]
    for size, error in ((30_000, 0.0), (1000, 0.15)):
        hashes, seen, total = Hashes(size), set(), 0
        for _ in range(60):
            some = draw.choices(population, k=700)
            hashes.add(np.array(some, dtype=np.uint64))
            seen.update(some)
            total += 700
            assert len(hashes._kept_H) <= size
        assert hashes.total == total
        assert hashes.distinct() == pytest.approx(len(seen), rel=error)


def test_nothing_is_no_hash() -> None:
    assert (Hashes().total, Hashes().distinct()) == (0, 0)
    full = np.array([0, 2**64 - 1, 2**64 - 1], dtype=np.uint64)
    hashes = Hashes()
    hashes.add(full)
    assert hashes.distinct() == 2
