from pathlib import Path

import pytest

from llm.params import ParamsError, from_dict
from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms.base import train_tokenizer

# Sennrich et al. 2016, figure 1, as a corpus of words (each occurrence preceded by a space).
SENNRICH = [" low" * 5 + " lower" * 2 + " newest" * 6 + " widest" * 3]


def config(**changes: object) -> bpe.Config:
    return from_dict(
        bpe.Config, {"vocab_size": 300, "min_frequency": 2, "special_tokens": [], **changes}, "tokenizer"
    )


def test_the_example_of_the_paper(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(bpe.build(config(vocab_size=4 + 256 + 9)), SENNRICH, tmp_path, "corpus")
    learned = [piece.replace("Ġ", "_") for piece in tokenizer.pieces()[260:]]
    # By hand: es and st occur 9 times each, the tie goes to the smaller ids (e < s); then es+t, still 9. Left with
    # 7 are _+l, l+o and o+w: l < o < _ by id, so lo; then _+lo before lo+w, because _ is a byte and lo is newer.
    assert learned[:5] == ["es", "est", "lo", "_lo", "_low"]


def test_vocabulary_smaller_than_asked_when_pairs_run_out(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(bpe.build(config(min_frequency=10)), SENNRICH, tmp_path, "corpus")
    assert tokenizer.vocab_size == 260  # no pair occurs 10 times


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 259}, r"vocab_size \(259\) must hold 256 bytes and the special tokens: 260"),
        ({"vocab_size": 260, "special_tokens": ["<|tool|>"]}, "special tokens: 261"),
        ({"min_frequency": 0}, r"min_frequency \(0\) must be at least 1"),
        ({"special_tokens": ["the"]}, r"'the' is not of the form '<\|name\|>'"),
        ({"special_tokens": ["<|pad|>"]}, r"'<\|pad\|>' is there twice"),
        ({"vocab_sise": 3}, "did you mean 'vocab_size'"),
    ],
)
def test_bad_configs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        config(**changes)
