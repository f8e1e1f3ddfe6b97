"""What counts as the same text for the exact method."""

import hashlib

from llm.data.dedup.exact import Config, Exact, fold


def same(left: str, right: str, *, fold: bool = True) -> bool:
    return Exact(Config(fold=fold)).duplicates([left, right]).tolist() == [0, 0]


def test_folding_ignores_case_white_space_and_composition() -> None:
    assert same("The  Fir-Tree\n\nstood", "the fir-tree stood ")
    assert same("caf\u00e9", "cafe\u0301")
    assert same("Straße", "STRASSE")


def test_punctuation_and_words_still_matter() -> None:
    assert not same("the fir-tree stood", "the fir tree stood")
    assert not same("one two", "onetwo")


def test_without_folding_every_byte_counts() -> None:
    assert not same("The Fir", "the fir", fold=False)
    assert same("The Fir", "The Fir", fold=False)


def test_the_signature_is_the_hash_it_says() -> None:
    signature = Exact(Config()).signatures(["A  b"])
    assert signature.tobytes() == hashlib.blake2b(b"a b", digest_size=16).digest()
    assert signature.shape == (1, 2)


def test_hashes_that_differ_in_their_last_byte_alone_differ() -> None:
    signatures = Exact(Config()).signatures(["x", "y"]).copy()
    signatures[1] = signatures[0]
    signatures[1, 1] ^= 1 << 56
    assert Exact(Config()).pairs(signatures, ["x", "y"]).rows_M2.tolist() == []


def test_fold_is_idempotent() -> None:
    assert fold(fold(" ΑΣ ς\tİ")) == fold(" ΑΣ ς\tİ")
