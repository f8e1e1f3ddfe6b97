"""MinHash-LSH against plain Python, its own theory, datasketch and rensa."""

import random

import numpy as np
import pytest

from llm.data.bands import candidate_probability
from llm.data.dedup import minhash
from llm.data.dedup.minhash import Config, MinHash
from llm.data.shingles import Hashed, shingles


def overlapping(similarity: float, n: int, seed: int) -> tuple[str, str]:
    """Two texts of n distinct words each whose word sets have this Jaccard similarity, about."""
    common = round(2 * n * similarity / (1 + similarity))
    names = [f"w{seed}x{number}" for number in range(2 * n - common)]
    return " ".join(names[:n]), " ".join(names[n - common :])


def edited(text: str, rate: float, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"new{draw.randrange(10**6)}" if draw.random() < rate else w for w in text.split())


def random_pairs(similarity: float, n: int, n_pairs: int, seed: int) -> tuple[Hashed, float]:
    """Pairs of sets of n random hashes that share so many that their Jaccard similarity is about this one."""
    common = round(2 * n * similarity / (1 + similarity))
    draw = np.random.default_rng(seed)
    unions = draw.integers(0, 2**64, (n_pairs, 2 * n - common), dtype=np.uint64)
    values = np.concatenate([unions[:, :n], unions[:, n - common :]], axis=1).ravel()
    return Hashed(values, np.full(2 * n_pairs, n)), common / (2 * n - common)


def plain(method: MinHash, hashes: list[int]) -> list[int]:
    """The signature of a document, place by place, in Python's integers."""
    n_places, mask = method.config.n_hashes, 2**64 - 1
    out = []
    for place in range(n_places):
        for number, a in enumerate(method.a_T.tolist()):
            thrown = [a * x & mask for x in hashes]
            here = [h for h in thrown if (h >> 32) * n_places >> 32 == place]
            if here:
                out.append(number << 29 | min((h & 0xFFFFFFFF) >> 3 for h in here))
                break
        else:
            a = int(method.a_K[place])
            out.append(min(7 << 29 | min((a * x & mask & 0xFFFFFFFF) >> 3 for x in hashes), 2**32 - 2))
    return out


@pytest.mark.parametrize("n_hashes", [1, 7, 64, 100])
def test_signatures_equal_plain_python(n_hashes: int) -> None:
    method = MinHash(Config(n_hashes=n_hashes))
    draw = random.Random(n_hashes)
    documents = [[draw.randrange(2**64) for _ in range(n)] for n in (1, 2, 5, 0, 30, 3, 400)]
    values = np.array([x for some in documents for x in some], dtype=np.uint64)
    got = method.sketch(Hashed(values, np.array([len(some) for some in documents])))
    assert got.dtype == np.uint32
    want = [plain(method, some) if some else [2**32 - 1] * n_hashes for some in documents]
    assert got.tolist() == want


def test_signatures_of_texts_are_those_of_their_shingles() -> None:
    method = MinHash(Config(shingle_words=2))
    texts = ["one two three four", "", "word", "a b c " * 50]
    want = [plain(method, shingles(text, 2).tolist()) if text else [2**32 - 1] * 128 for text in texts]
    assert method.signatures(texts).tolist() == want


def test_a_place_filled_by_an_earlier_round_is_never_touched_again() -> None:
    # one of the two documents of a group is full after the first round, the other one needs them all
    draw = np.random.default_rng(5)
    small, large = (draw.integers(0, 2**64, n, dtype=np.uint64) for n in (3, 5000))
    method = MinHash(Config())
    together = method.sketch(Hashed(np.concatenate([large, small]), np.array([5000, 3])))
    assert together[0].tolist() == method.sketch(Hashed(large, np.array([5000])))[0].tolist()
    assert together[1].tolist() == plain(method, small.tolist())
    assert set((together[0] >> 29).tolist()) == {0}


@pytest.mark.parametrize("n", [20, 128, 1000])
@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_estimates_are_unbiased_and_at_least_as_exact_as_independent_hashes(
    similarity: float, n: int
) -> None:
    n_pairs = 600
    hashed, true = random_pairs(similarity, n, n_pairs, seed=n)
    signatures = MinHash(Config()).sketch(hashed)
    errors = (signatures[0::2] == signatures[1::2]).mean(axis=1) - true
    sigma = (true * (1 - true) / 128) ** 0.5
    assert abs(errors.mean()) < 3 * sigma / n_pairs**0.5
    rmse = float((errors**2).mean() ** 0.5)
    assert rmse < 1.05 * sigma  # a shingle fills one place of a round: errors are smaller, the more so ...
    assert rmse > (0.9 if n == 1000 else 0.5) * sigma  # ... the fewer shingles there are


@pytest.mark.parametrize("n", [60, 300, 1000])
@pytest.mark.parametrize("similarity", [0.55, 0.65, 0.75, 0.85])
def test_candidate_rate_lies_in_the_binomial_band(similarity: float, n: int) -> None:
    method = MinHash(Config(threshold=0.7, verify=False))
    n_pairs = 500
    hashed, true = random_pairs(similarity, n, n_pairs, seed=n)
    pairs = method.pairs(method.sketch(hashed), [""] * (2 * n_pairs)).rows_M2
    rate = np.count_nonzero((pairs[:, 1] == pairs[:, 0] + 1) & (pairs[:, 0] % 2 == 0)) / n_pairs
    expected = float(candidate_probability(np.array(true), method.n_bands, method.n_rows))
    assert abs(rate - expected) <= 2.576 * (expected * (1 - expected) / n_pairs) ** 0.5


def test_the_curve_is_that_of_the_bands() -> None:
    method = MinHash(Config(threshold=0.7))
    np.testing.assert_allclose(method.curve(np.array([0.0, 0.7, 1.0])), [0.0, 1 - (1 - 0.7**9) ** 14, 1.0])


def test_estimates_agree_with_rensa() -> None:
    import rensa

    hashed, true = random_pairs(0.6, 800, 100, seed=1)
    offsets = np.arange(0, 200 * 800 + 1, 800, dtype=np.uint64)
    theirs = np.array(
        rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashed.values, offsets, 128, 1).to_rows()
    )
    ours = MinHash(Config()).sketch(hashed)
    both = [(rows[0::2] == rows[1::2]).mean(axis=1) for rows in (ours, theirs)]
    sigma = (true * (1 - true) / 128) ** 0.5
    assert abs(both[0].mean() - both[1].mean()) < 2.576 * sigma * (2 / 100) ** 0.5
    assert abs(both[0] - both[1]).mean() < 2 * sigma


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


def test_signatures_never_change_between_versions_and_machines() -> None:
    # printed by this code, whose arithmetic the tests above check; other numbers would drop other documents
    signature = MinHash(Config()).signatures(["the quick brown fox jumps over the lazy dog"])[0]
    assert signature[:4].tolist() == GOLDEN


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"threshold": 1.0}, "threshold"), ({"fp_weight": 2.0}, "fp_weight"), ({"n_hashes": 0}, "n_hashes")],
)
def test_a_config_out_of_range_is_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**bad)  # type: ignore[arg-type]


GOLDEN = [3874934113, 3839611778, 3920265315, 3876362302]
