"""MinHash-LSH against exact arithmetic, its own theory, and datasketch."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.dedup import minhash
from llm.data.dedup.minhash import (
    Config,
    MinHash,
    candidate_probability,
    jaccard,
    optimal_bands,
    permute,
    shingles,
)

P = 2**61 - 1


def overlapping(similarity: float, n: int, seed: int) -> tuple[str, str]:
    """Two texts of n distinct words each whose word sets have this Jaccard similarity, about."""
    common = round(2 * n * similarity / (1 + similarity))
    names = [f"w{seed}x{number}" for number in range(2 * n - common)]
    return " ".join(names[:n]), " ".join(names[n - common :])


def edited(text: str, rate: float, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"new{draw.randrange(10**6)}" if draw.random() < rate else w for w in text.split())


@given(
    a=st.integers(1, P - 1),
    b=st.integers(0, P - 1),
    x=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9),
)
def test_permute_equals_exact_integers(a: int, b: int, x: list[int]) -> None:
    got = permute(np.array(x, dtype=np.uint64), np.uint64(a), np.uint64(b))
    assert got.tolist() == [(a * value + b) % P % 2**32 for value in x]


@pytest.mark.parametrize("a", [1, P - 1, 2**32, 2**32 - 1, 2**60])
@pytest.mark.parametrize("b", [0, P - 1])
def test_permute_at_the_borders(a: int, b: int) -> None:
    x = np.array([0, 1, 2, 2**31, 2**32 - 2, 2**32 - 1], dtype=np.uint64)
    got = permute(x, np.uint64(a), np.uint64(b))
    assert got.tolist() == [(a * value + b) % P % 2**32 for value in x.tolist()]


@pytest.mark.parametrize(
    ("threshold", "bands"), [(0.5, (25, 5)), (0.7, (14, 9)), (0.8, (9, 13)), (0.85, (8, 16)), (0.9, (5, 25))]
)
def test_the_table_of_bands_for_128_hashes(threshold: float, bands: tuple[int, int]) -> None:
    assert optimal_bands(threshold, 128) == bands


def test_bands_equal_those_datasketch_chooses() -> None:
    from datasketch.lsh import _optimal_param

    for threshold in (0.3, 0.55, 0.75, 0.95):
        for n_hashes in (32, 128):
            for weight in (0.2, 0.5):
                want = _optimal_param(threshold, n_hashes, weight, 1 - weight)
                assert optimal_bands(threshold, n_hashes, weight) == tuple(want)


def test_candidate_probability_equals_the_published_curve() -> None:
    # FineWeb's 14 bands of 8 rows, at similarity .5 .6 .7 .8 .9
    got = candidate_probability(np.array([0.5, 0.6, 0.7, 0.8, 0.9]), 14, 8)
    np.testing.assert_allclose(got, [0.053, 0.211, 0.565, 0.924, 0.9996], atol=5e-4)


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_estimates_are_unbiased_and_as_exact_as_theory_says(similarity: float) -> None:
    method = MinHash(Config(shingle_words=1))
    pairs = [overlapping(similarity, 120, seed) for seed in range(150)]
    true = jaccard(shingles(pairs[0][0], 1), shingles(pairs[0][1], 1))
    signatures = method.signatures([text for pair in pairs for text in pair])
    errors = (signatures[0::2] == signatures[1::2]).mean(axis=1) - true
    sigma = (true * (1 - true) / 128) ** 0.5
    assert abs(errors.mean()) < 2.576 * sigma / 150**0.5
    assert 0.85 < errors.std() / sigma < 1.15


@pytest.mark.parametrize("similarity", [0.55, 0.65, 0.75, 0.85])
def test_candidate_rate_lies_in_the_binomial_band(similarity: float) -> None:
    method = MinHash(Config(threshold=0.7, shingle_words=1, verify=False))
    pairs = [overlapping(similarity, 60, seed) for seed in range(300)]
    true = jaccard(shingles(pairs[0][0], 1), shingles(pairs[0][1], 1))
    roots = method.duplicates([text for pair in pairs for text in pair])
    rate = (roots[1::2] == roots[0::2]).mean()
    expected = float(candidate_probability(np.array(true), method.n_bands, method.n_rows))
    assert abs(rate - expected) <= 2.576 * (expected * (1 - expected) / 300) ** 0.5


def test_estimates_agree_with_datasketch() -> None:
    import datasketch

    left, right = overlapping(0.6, 100, 3)
    theirs = [datasketch.MinHash(num_perm=512) for _ in range(2)]
    for sketch, text in zip(theirs, (left, right), strict=True):
        sketch.update_batch([word.encode() for word in text.split()])
    ours = MinHash(Config(n_hashes=512, shingle_words=1)).signatures([left, right])
    sigma = (0.6 * 0.4 / 512) ** 0.5
    assert abs((ours[0] == ours[1]).mean() - theirs[0].jaccard(theirs[1])) < 2.576 * sigma * 2**0.5


def test_clusters_equal_those_of_datasketch() -> None:
    import datasketch

    words = [f"v{i}" for i in range(400)]
    originals = [" ".join(random.Random(seed).choices(words, k=150)) for seed in range(12)]
    texts = [
        edited(text, 0.01 * copy, 10 * i + copy) for i, text in enumerate(originals) for copy in range(3)
    ]
    roots = MinHash(Config(threshold=0.5, shingle_words=3)).duplicates(texts)
    index = datasketch.MinHashLSH(threshold=0.5, num_perm=128)
    sketches = []
    for row, text in enumerate(texts):
        sketch = datasketch.MinHash(num_perm=128)
        sketch.update_batch([f"{value}".encode() for value in shingles(text, 3).tolist()])
        index.insert(row, sketch)
        sketches.append(sketch)
    assert roots.tolist() == [min(index.query(sketch)) for sketch in sketches]


def test_planted_copies_are_found_and_only_they() -> None:
    words = [f"v{i}" for i in range(900)]
    originals = [random.Random(seed).choices(words, k=200) for seed in range(40)]
    copies = [[*text[:50], "new", *text[51:150], "newer", *text[151:]] for text in originals[:20]]  # J = 0.9
    roots = MinHash(Config()).duplicates([" ".join(text) for text in originals + copies])
    assert roots[:40].tolist() == list(range(40))
    assert roots[40:].tolist() == list(range(20))


def test_verification_refuses_what_the_bands_let_through() -> None:
    pairs = [overlapping(0.6, 60, seed) for seed in range(100)]
    texts = [text for pair in pairs for text in pair]
    loose = MinHash(Config(threshold=0.7, shingle_words=1, verify=False))
    strict = MinHash(Config(threshold=0.7, shingle_words=1, verify=True))
    candidates = loose.pairs(loose.signatures(texts), texts)
    assert len(candidates.rows_M2) > 5
    found = strict.pairs(strict.signatures(texts), texts)
    assert found.rows_M2.tolist() == []
    assert found.facts == {
        "bands": 14,
        "rows": 9,
        "pairs": 0,
        "pairs_verified": len(candidates.rows_M2),
        "pairs_refused": len(candidates.rows_M2),
    }


def test_a_bucket_of_strangers_loses_no_pair() -> None:
    # two groups of copies forced into one bucket: each copy joins its own group
    same = {(0, 2), (1, 3), (1, 4)}
    pairs = minhash._bucket_pairs([0, 1, 2, 3, 4], lambda left, right: (left, right) in same)
    assert pairs == [(0, 2), (1, 3), (1, 4)]


def test_texts_without_words_are_alike_to_nobody() -> None:
    assert MinHash(Config()).duplicates(["", " \n ", "...", "!!"]).tolist() == [0, 1, 2, 3]


def test_a_text_shorter_than_a_shingle_is_one_shingle() -> None:
    assert len(shingles("two words", 5)) == 1
    assert len(shingles("one two three four five", 5)) == 1
    assert len(shingles("one two three four five six", 5)) == 2
    assert shingles("one two", 5).tolist() != shingles("two one", 5).tolist()


def test_chinese_is_cut_into_characters() -> None:
    assert len(shingles("从前有一个小姑娘", 5)) == 4


def test_signatures_equal_plain_python() -> None:
    method = MinHash(Config(shingle_words=2))
    mask = 2**64 - 1
    tokens = [
        int.from_bytes(hashlib.blake2b(w, digest_size=8).digest(), "little") for w in (b"a", b"b", b"c")
    ]

    def shingle(first: int, second: int) -> int:
        value = (first * 0x9E3779B97F4A7C15 + second) & mask
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        return (value ^ value >> 31) >> 32

    hashes = [shingle(tokens[0], tokens[1]), shingle(tokens[1], tokens[2])]
    want = [
        min((a * value + b) % P % 2**32 for value in hashes)
        for a, b in zip(method.a_K.tolist(), method.b_K.tolist(), strict=True)
    ]
    signature = method.signatures(["A b, C"])
    assert signature.dtype == np.uint32
    assert signature[0].tolist() == want


def test_signatures_never_change_between_versions_and_machines() -> None:
    # printed by this code, whose arithmetic the test above checks; other numbers would drop other documents
    signature = MinHash(Config()).signatures(["the quick brown fox jumps over the lazy dog"])[0]
    assert signature[:4].tolist() == GOLDEN


def test_the_word_cache_forgets_without_changing_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = shingles("a small stone", 2)
    monkeypatch.setattr(minhash, "_HASH", full := minhash._WordHashes())
    monkeypatch.setattr(minhash, "_CACHE_WORDS", 2)
    full.update({"other": 0, "words": 1})
    np.testing.assert_array_equal(shingles("a small stone", 2), before)
    assert sorted(full) == ["stone"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"threshold": 1.0}, "threshold"), ({"fp_weight": 2.0}, "fp_weight"), ({"n_hashes": 0}, "n_hashes")],
)
def test_a_config_out_of_range_is_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**bad)  # type: ignore[arg-type]


GOLDEN = [225375292, 16064990, 935849916, 1305398998]
