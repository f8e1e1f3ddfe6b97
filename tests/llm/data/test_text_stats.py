"""Tokens and small counts."""

import pytest

from llm.data.text_stats import (
    ENDS_IN_ELLIPSIS,
    duplicates,
    first_broken,
    has_letter,
    is_word,
    numbered,
    share,
    tokens,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He didn't, she'll go.", "He|did|n't|,|she|'ll|go|."),
        ("the dogs' o'clock John’s", "the|dogs|'|o'clock|John|’s"),
        ("Mr. Smith of the U.S. left.", "Mr.|Smith|of|the|U.S.|left|."),
        (
            "apple-trees cost 1,000.50 at 10:30 (covid-19)",
            "apple|-|trees|cost|1,000.50|at|10:30|(|covid-19|)",
        ),
        ("see www.example.org and/or the end.Start", "see|www.example.org|and|/|or|the|end|.|Start"),
        ("wait... what?! no -- yes…", "wait|...|what|?|!|no|--|yes|…"),
        ("snake_case a_ #tag", "snake_case|a|_|#|tag"),
        ("你好 world世界", "你|好|world|世|界"),
        ("  \n ", ""),
    ],
)
def test_tokens(text: str, found: str) -> None:
    assert tokens(text) == [token for token in found.split("|") if token]


def test_no_character_is_lost() -> None:
    text = "Don’t_ 'tis — 50% of §3... a.m. x@y.org http://a.b/c?d=e 3.14.15 …é漢字\u200d!"
    assert "".join(tokens(text)) == "".join(text.split())


@pytest.mark.parametrize(
    ("token", "word"), [("hen", 1), ("n't", 1), ("42", 1), ("€", 1), ("...", 0), ("#", 0), ("«", 0)]
)
def test_words_are_more_than_punctuation(token: str, word: int) -> None:
    assert is_word(token) == bool(word)


def test_letters_of_any_script() -> None:
    assert [has_letter(token) for token in ("1a", "漢", "12.5%")] == [True, True, False]


def test_shares_and_duplicates() -> None:
    assert share(["1", "a", "b2", ""], str.isalpha) == 0.25
    assert share([], str.isalpha) == 0.0
    assert duplicates(["ab", "c", "ab", "ab"]) == (2, 4)
    assert duplicates([]) == (0, 0)


def test_blanks_may_follow_an_ellipsis() -> None:
    assert [bool(ENDS_IN_ELLIPSIS.match(line)) for line in ("so... ", "so…", "so...x")] == [True, True, False]


def test_words_are_numbered_in_order_of_appearance() -> None:
    ids_W, lengths_W = numbered(["the", "a", "the"])
    assert (ids_W.tolist(), lengths_W.tolist()) == ([0, 1, 0], [3, 1, 3])
    assert len(numbered([])[0]) == 0


def test_the_first_broken_rule_stops_the_others() -> None:
    def rules():  # type: ignore[no-untyped-def]
        yield "fine", 1, 1, 2
        yield "low", 0.5, 1, 2
        raise AssertionError("asked for more")

    assert first_broken(rules()) == ("low", 0.5)
    assert first_broken([("fine", 2, 1, 2)]) is None
