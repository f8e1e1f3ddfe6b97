import pytest

from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.quality import batches, measure


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    # Two merges: " a" and " aa".
    config = bpe.Config(vocab_size=262, min_frequency=5, special_tokens=())
    return train_tokenizer(bpe.build(config), [" aa" * 9], tmp_path_factory.mktemp("q"), "corpus")


def test_numbers_by_hand(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces()[260:] == ["aa", "Ġaa"]
    # " aa" is one token, " b" two single bytes, "é" two single bytes that make one word with b
    measured = measure(tokenizer, [" aa bé", " aa"])
    assert measured == {
        "n_bytes": 10,
        "n_tokens": 6,
        "bytes_per_token": 10 / 6,
        "fertility": 2.0,  # 6 tokens, 3 words
        "single_byte_frac": 4 / 6,
        "used_vocab_frac": 5 / 262,  # " aa", " ", "b" and the two bytes of é
    }


def test_nothing_to_measure(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="hold no word"):
        measure(tokenizer, ["  \n"])


def test_batches_keep_order_and_every_text() -> None:
    texts = ["aaaa", "b", "cc", "", "ddddd", "e"]
    found = list(batches(texts, n_chars=4))
    assert [text for batch in found for text in batch] == texts
    assert found == [["aaaa"], ["b", "cc", "", "ddddd"], ["e"]]
