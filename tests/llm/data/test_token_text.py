import re

import numpy as np
import pytest

from llm import registry
from llm.data.token_text import TextReader, TokenText
from llm.params import from_dict
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer

TEXT = "The duck swims. “Quack!” it says — 你好。🙂 é\n\nThe end of the duck.\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    config = registry.module("llm.tokenizer.algorithms", "bpe").Config
    options = {"vocab_size": 290, "min_frequency": 2, "special_tokens": []}
    algorithm = registry.build(from_dict(config, options, "tokenizer"))
    return train_tokenizer(algorithm, [TEXT], tmp_path_factory.mktemp("tokenizer"), "test")


def test_text_and_starts_of_real_tokens(tokenizer: Tokenizer) -> None:
    ids = np.array([tokenizer.eot_id, *tokenizer.encode(TEXT), tokenizer.eot_id])
    text = TextReader(tokenizer).read(ids)
    assert text.text == TEXT
    assert len(text.starts_T) == len(ids)
    for token in range(1, len(ids)):
        start = text.starts_T[token]
        before = tokenizer.decode(ids[1:token].tolist())
        if "\ufffd" not in before:  # the tokens before end with a character
            assert before == TEXT[:start]
    inside = [t for t in range(len(ids)) if "\ufffd" in tokenizer.decode(ids[1:t].tolist())]
    assert inside  # 你 is three tokens: nothing was learned about it
    assert not set(inside) & set(text.positions((at, at) for at in range(len(TEXT))).tolist())


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.im_start_id, *tokenizer.encode("duck"), tokenizer.im_end_id]
    text = TextReader(tokenizer).read(np.array(ids))
    assert text.text == "duck"
    assert text.starts_T[-1] == 4


def test_a_cut_goes_after_the_space_where_a_token_begins_there() -> None:
    text = "ab. Cd  ef\n\ngh"
    starts = np.array([0, 2, 3, 6, 8, 10, 11, 12])  # ab|.| Cd|␣␣|ef|\n|\n|gh
    tokens = TokenText(text, starts)
    assert tokens.sentences().tolist() == [2, 7]
    assert tokens.words().tolist() == [2, 4, 7]
    assert tokens.blank_lines().tolist() == [7]
    assert tokens.lines().tolist() == [7]


def test_a_break_inside_a_token_is_none() -> None:
    tokens = TokenText("one. Two. Three", np.array([0, 3, 9]))  # one|. Two.| Three
    assert tokens.sentences().tolist() == [2]
    assert tokens.matches(re.compile("x")).tolist() == []
