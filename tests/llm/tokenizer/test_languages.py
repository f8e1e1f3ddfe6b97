"""Tokenizer numbers by language, worked out by hand."""

import pytest

from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.languages import is_whole, measure_languages


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Knows 月 and 'ab', nothing else: three merges."""
    config = bpe.Config(vocab_size=263, min_frequency=5, special_tokens=())
    return train_tokenizer(bpe.build(config), ["月", "ab"] * 9, tmp_path_factory.mktemp("l"), "corpus")


def test_numbers_by_hand(tokenizer: Tokenizer) -> None:
    # 月 is one token, 明 three bytes; "ab" one token, "c" one byte
    found = measure_languages(tokenizer, ["月月明", "ab", "c c"])
    assert list(found) == ["en", "zh"]
    assert found["zh"] == {
        "n_docs": 1,
        "n_bytes": 9,
        "n_tokens": 5,
        "bytes_per_token": 9 / 5,
        "chars_per_token": 3 / 5,
        "fertility": 5 / 3,  # every character is a word
        "covered_frac": 6 / 9,
        "used_pieces": 4,
    }
    assert found["en"] == {
        "n_docs": 2,
        "n_bytes": 5,
        "n_tokens": 4,
        "bytes_per_token": 5 / 4,
        "chars_per_token": 5 / 4,
        "fertility": 4 / 3,
        "covered_frac": 1.0,
        "used_pieces": 3,
    }


def test_only_languages_that_occur(tokenizer: Tokenizer) -> None:
    assert list(measure_languages(tokenizer, ["plain English"])) == ["en"]
    assert measure_languages(tokenizer, []) == {}


@pytest.mark.parametrize(
    ("piece", "whole"),
    [(b"a", True), ("月明".encode(), True), ("月".encode()[:2], False), (b"\x88", False), (b"a\xe6", False)],
)
def test_a_part_of_a_character_is_not_whole(piece: bytes, whole: bool) -> None:
    assert is_whole(piece) is whole
