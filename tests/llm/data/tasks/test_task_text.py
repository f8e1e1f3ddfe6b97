"""Paragraphs, sentences, passages and content words."""

import pytest

from llm.data.tasks.text import content_words, is_whole, paragraphs, passages, sentences, words


def test_paragraphs_are_blocks_or_lines() -> None:
    assert paragraphs("One\ntwo.\n\n \nThree.") == ["One\ntwo.", "Three."]
    assert paragraphs("One.\nTwo.\n") == ["One.", "Two."]
    assert paragraphs(" \n") == []


def test_sentences_end_before_a_capital_and_join_to_the_text() -> None:
    text = 'He said: "Go away!" Then he left. (Nobody saw it.) Mr. 5 came, etc. and so on'
    pieces = sentences(text)
    assert pieces == [
        'He said: "Go away!"',
        "Then he left.",
        "(Nobody saw it.)",
        "Mr. 5 came, etc. and so on",
    ]
    assert " ".join(pieces) == text
    assert sentences("") == []


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("The end.", True),
        ('"No!"', True),
        ("(So.)", True),
        ("He said,--", False),
        ("Then:", False),
        ("", False),
    ],
)
def test_a_text_is_whole_when_its_last_sentence_is(text: str, whole: bool) -> None:
    assert is_whole(text) == whole


def test_passages_are_runs_of_neighbours_of_fitting_length() -> None:
    text = "\n\n".join(["a" * 10, "b" * 12, "c" * 3, "d" * 10, "e" * 99, "f" * 10])
    assert passages(text, 10, 20) == [["a" * 10, "b" * 12], ["d" * 10], ["f" * 10]]


def test_a_text_of_one_paragraph_is_cut_between_sentences() -> None:
    assert passages("One two three. Four five. Six seven eight. Nine.", 12, 30) == [
        ["One two three.", "Four five. Six seven eight."]
    ]


def test_words_are_lower_case_with_their_apostrophes() -> None:
    assert words('"Don\'t, Anne!"') == ["don't", "anne"]


def test_content_words_are_noun_like_words_between_two_ranks() -> None:
    text = "The king saw the door. The king ran, and the red door was big. He ran to the king in a door. " * 3
    assert content_words([text], min_rank=0, max_rank=20) == [
        "door",
        "king",
    ]  # not ran, red, big, and no stop word
    ranked = content_words([text], min_rank=0, max_rank=3)
    assert ranked == ["door", "king"]  # ranks 1 and 2; "the" is 0
    assert content_words([text], min_rank=2, max_rank=20) == ["king"]
    assert content_words([], min_rank=0, max_rank=20) == []
