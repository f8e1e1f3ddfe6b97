"""Which paragraphs count as the same, and what is left of a text without them."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.paragraphs.exact import Config, ExactParagraphs

LONG = "one two three four five six"
OTHER = "seven eight nine ten eleven"


def method(min_words: int = 5, split: str = "blank_line") -> ExactParagraphs:
    return ExactParagraphs(Config(min_words=min_words, split=split))  # type: ignore[arg-type]


def test_short_paragraphs_may_not_go() -> None:
    text = f"{LONG}\n\n'Yes,' said she.\n\n{OTHER}"
    assert len(method().hashes(text)) == 2
    assert method().without(text, [True, True]) == "'Yes,' said she."


def test_the_hash_is_the_one_it_says() -> None:
    digest = hashlib.blake2b(LONG.encode(), digest_size=8).digest()
    assert method().hashes(f"  {LONG.upper()}\n").tolist() == [int.from_bytes(digest, "little")]


def test_case_and_white_space_make_no_difference_punctuation_does() -> None:
    first, *others = (
        method().hashes(text).tolist() for text in (LONG, LONG.title(), LONG.replace(" ", "\n"), LONG + "!")
    )
    assert [other == first for other in others] == [True, True, False]


@pytest.mark.parametrize(
    ("repeated", "left"),
    [
        ([False, False, False], f"{LONG}\n\n{OTHER}\n \n\n{LONG}!\n"),
        ([True, False, False], f"{OTHER}\n \n\n{LONG}!\n"),
        ([False, True, False], f"{LONG}\n\n{LONG}!\n"),
        ([False, False, True], f"{LONG}\n\n{OTHER}"),
        ([True, True, True], ""),
    ],
)
def test_a_paragraph_goes_with_the_border_behind_it(repeated: list[bool], left: str) -> None:
    assert method().without(f"{LONG}\n\n{OTHER}\n \n\n{LONG}!\n", repeated) == left


def test_lines_may_be_the_paragraphs() -> None:
    text = f"A: {LONG}\nB: no\nA: {OTHER}"
    assert len(method(split="line").hashes(text)) == 2
    assert method(split="line").without(text, [False, True]) == f"A: {LONG}\nB: no"
    assert len(method().hashes(text)) == 1


@given(text=st.text(alphabet="ab \n", max_size=60))
def test_without_nothing_the_text_is_itself(text: str) -> None:
    for split in ("blank_line", "line"):
        paragraphs = method(1, split)
        hashes = paragraphs.hashes(text)
        assert hashes.dtype == np.uint64
        assert paragraphs.without(text, [False] * len(hashes)) == text
        assert paragraphs.without(text, [True] * len(hashes)).strip() == ""


def test_a_config_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="min_words"):
        Config(min_words=0)
