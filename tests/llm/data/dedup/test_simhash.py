"""SimHash against the library of that name, its geometry, and a search of all pairs."""

import hashlib
import random
from math import comb, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.dedup.simhash import Config, SimHash, fingerprints, near_pairs
from llm.data.shingles import Hashed, shingles

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdklmnrst"]


def md5(feature: str) -> int:
    return int.from_bytes(hashlib.md5(feature.encode()).digest()[-8:], "big")


def hashed(documents: list[list[str]]) -> Hashed:
    values = np.array([md5(feature) for some in documents for feature in some], dtype=np.uint64)
    return Hashed(values, np.array([len(some) for some in documents]))


def edited(words: list[str], rate: float, draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) if draw.random() < rate else word for word in words)


@given(st.lists(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12), min_size=1, max_size=4))
def test_fingerprints_equal_the_library_bit_for_bit(documents: list[list[str]]) -> None:
    import simhash

    documents = [[feature for feature in some if feature.isprintable()] or ["x"] for some in documents]
    want = [simhash.Simhash(some).value for some in documents]
    assert fingerprints(hashed(documents)).tolist() == want


def test_weighted_fingerprints_equal_the_library_bit_for_bit() -> None:
    import simhash

    draw = random.Random(1)
    documents = [{draw.choice(WORDS): draw.randrange(1, 9) for _ in range(n)} for n in (1, 2, 7, 300)]
    weights = np.array([w for some in documents for w in some.values()], dtype=np.float64)
    want = [simhash.Simhash(some).value for some in documents]
    assert fingerprints(hashed([list(some) for some in documents]), weights).tolist() == want


def test_a_tie_is_a_zero() -> None:
    values = np.array([0b1100, 0b1010], dtype=np.uint64)
    assert fingerprints(Hashed(values, np.array([2]))).tolist() == [0b1000]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12, unique=True), st.integers(0, 12), st.randoms())
def test_the_search_by_blocks_finds_all_near_pairs_and_only_them(
    bits: list[int], distance: int, draw: random.Random
) -> None:
    near = {b ^ sum(1 << draw.randrange(64) for _ in range(draw.randrange(14))) & (2**64 - 1) for b in bits}
    rows = np.array(sorted({*bits, *near}), dtype=np.uint64)
    want = [
        [i, j]
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if (int(rows[i]) ^ int(rows[j])).bit_count() <= distance
    ]
    assert near_pairs(rows, distance)[0].tolist() == want


def test_unrelated_texts_differ_in_half_of_the_bits_and_edits_in_few() -> None:
    draw = random.Random(2)
    texts = [draw.choices(WORDS, k=300) for _ in range(100)]
    method = SimHash(Config())
    plain = method.signatures([" ".join(text) for text in texts])[:, 0]
    unrelated = np.bitwise_count(plain[:50] ^ plain[50:])
    assert 31 < unrelated.mean() < 33
    means = []
    for rate in (0.0, 0.01, 0.05, 0.2):
        changed = method.signatures([edited(text, rate, draw) for text in texts])[:, 0]
        means.append(np.bitwise_count(plain ^ changed).mean())
    assert means[0] == 0
    assert means == sorted(means)
    assert 1 < means[1] < 5


def test_the_distance_follows_the_angle() -> None:
    draw = np.random.default_rng(3)
    n, n_pairs, share = 400, 200, 0.9  # cosine 0.9 between 0/1 vectors that share 9 of 10 features
    common = round(n * share)
    unions = draw.integers(0, 2**64, (n_pairs, 2 * n - common), dtype=np.uint64)
    values = np.concatenate([unions[:, :n], unions[:, n - common :]], axis=1).ravel()
    bits = fingerprints(Hashed(values, np.full(2 * n_pairs, n)))
    distance = np.bitwise_count(bits[0::2] ^ bits[1::2])
    expected = 64 * np.arccos(share) / np.pi
    assert abs(distance.mean() - expected) < 3 * (expected / n_pairs) ** 0.5
    found = (distance <= 8).mean()
    chance = float(SimHash(Config(max_distance=8)).curve(np.array([share]))[0])
    assert abs(found - chance) < 3 * (chance * (1 - chance) / n_pairs) ** 0.5


def test_the_curve_is_the_binomial_of_the_differing_bits() -> None:
    p = np.arccos(0.95) / np.pi
    want = sum(comb(64, d) * p**d * (1 - p) ** (64 - d) for d in range(4))
    got = SimHash(Config(max_distance=3)).curve(np.array([1.0, 0.95, 0.0]))
    np.testing.assert_allclose(got[:2], [1.0, want])
    assert got[2] < 1e-12


IDF = Config(shingle_words=1, weights="idf")


def test_idf_votes_equal_the_definition() -> None:
    draw = random.Random(5)
    texts = [
        " ".join(draw.choices(WORDS[: draw.randrange(2, 300)], k=draw.randrange(1, 200))) for _ in range(40)
    ]
    method = SimHash(IDF)
    method.fit([method.look(texts)])
    features = [shingles(text, 1).tolist() for text in texts]
    for text, found in zip(texts, features, strict=True):
        votes = [0] * 64
        for h in found:
            n_texts = sum(any(other >> 44 == h >> 44 for other in some) for some in features)
            weight = round(1024 * log(1 + len(texts) / n_texts))
            votes = [v + (weight if h >> bit & 1 else -weight) for bit, v in enumerate(votes)]
        want = sum(1 << bit for bit, v in enumerate(votes) if v > 0)
        assert method.signatures([text])[0, 0] == want


def test_frequent_words_do_not_make_texts_alike_when_rarity_weighs() -> None:
    draw = random.Random(6)
    texts = [
        " ".join(draw.choice(WORDS[:20] if draw.random() < 0.5 else WORDS) for _ in range(300))
        for _ in range(100)
    ]
    bits = []
    for config in (Config(shingle_words=1), IDF):
        method = SimHash(config)
        method.fit([method.look(texts)])
        found = method.signatures(texts)[:, 0]
        bits.append(np.bitwise_count(found[:50] ^ found[50:]).mean())
    assert bits[0] < 18
    assert bits[1] > bits[0] + 5


def test_idf_without_the_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="not fitted"):
        SimHash(IDF).signatures(["a text"])


def test_near_copies_are_joined_and_counted() -> None:
    draw = random.Random(4)
    text = draw.choices(WORDS, k=3000)
    texts = [" ".join(text), " ".join(draw.choices(WORDS, k=300)), " ".join([*text, "end"]), " ".join(text)]
    method = SimHash(Config())
    pairs = method.pairs(method.signatures(texts), texts)
    assert pairs.facts["pairs"] == len(pairs.rows_M2) == 2
    assert method.duplicates(texts).tolist() == [0, 1, 0, 0]


def test_texts_without_words_are_alike_to_nobody() -> None:
    assert SimHash(Config()).duplicates(["", " \n ", "...", "!!"]).tolist() == [0, 1, 2, 3]


def test_fingerprints_never_change_between_versions_and_machines() -> None:
    # printed by this code, whose arithmetic the tests above check; other numbers would drop other documents
    assert SimHash(Config()).signatures(["the quick brown fox jumps over the lazy dog"])[0].tolist() == GOLDEN


@pytest.mark.parametrize("bad", [{"max_distance": 32}, {"max_distance": -1}, {"shingle_words": 0}])
def test_a_config_out_of_range_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Config(**bad)


GOLDEN = [6414252337938760594]
