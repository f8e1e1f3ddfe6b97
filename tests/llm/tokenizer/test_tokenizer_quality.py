import math
from pathlib import Path

import pytest

from llm.tokenizer.algorithms import bpe, wordpiece
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.quality import batches, measure, renyi_efficiency


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    # Two merges: " a" and " aa".
    config = bpe.Config(vocab_size=262, min_frequency=5, special_tokens=())
    return train_tokenizer(bpe.build(config), [" aa" * 9], tmp_path_factory.mktemp("q"), "corpus")


def test_numbers_by_hand(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces()[260:] == ["aa", "Ġaa"]
    # " aa" is one token, " b" two single bytes, "é" two single bytes that make one word with b
    measured = measure(tokenizer, [" aa bé", " aa"])
    frequencies = [2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6]
    entropy = math.log(sum(p**2.5 for p in frequencies)) / (1 - 2.5)
    assert measured.pop("renyi") == pytest.approx(entropy / math.log(262))
    assert measured == {
        "n_bytes": 10,
        "n_tokens": 6,
        "bytes_per_token": 10 / 6,
        "fertility": 2.0,  # 6 tokens, 3 words
        "single_byte_frac": 4 / 6,
        "used_vocab_frac": 5 / 262,  # " aa", " ", "b" and the two bytes of é
        "whole_words_frac": 2 / 3,  # " aa" twice, " bé" not
    }


def test_renyi_efficiency_of_known_distributions() -> None:
    assert renyi_efficiency([5, 5, 5, 5]) == pytest.approx(1.0)
    assert renyi_efficiency([7, 0, 0, 0]) == pytest.approx(0.0)
    assert renyi_efficiency([5, 5, 0, 0]) == pytest.approx(0.5)  # log 2 / log 4


def test_a_byte_inside_a_word_is_a_byte(tmp_path: Path) -> None:
    """WordPiece spells it with a prefix, two characters for one byte."""
    config = wordpiece.Config(vocab_size=517, min_frequency=5, special_tokens=())
    tokenizer = train_tokenizer(wordpiece.build(config), [" aa" * 9], tmp_path, "corpus")
    assert tokenizer.pieces()[516:] == ["‿aa"]
    # " aa" is Ġ ‿aa, " b" is Ġ ‿b, "é" two bytes behind it in the same word: five single bytes of six tokens
    measured = measure(tokenizer, [" aa bé"])
    assert (measured["n_tokens"], measured["single_byte_frac"]) == (6, 5 / 6)


def test_nothing_to_measure(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="hold no word"):
        measure(tokenizer, ["  \n"])


def test_batches_keep_order_and_every_text() -> None:
    texts = ["aaaa", "b", "cc", "", "ddddd", "e"]
    found = list(batches(texts, n_chars=4))
    assert [text for batch in found for text in batch] == texts
    assert found == [["aaaa"], ["b", "cc", "", "ddddd"], ["e"]]
