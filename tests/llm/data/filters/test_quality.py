"""The measures behind the quality rules, on texts where they can be counted by hand."""

import pytest

from llm.data.document import Document
from llm.data.filters.quality import (
    Config,
    Quality,
    common_ngram_chars_frac,
    duplicate_ngram_chars_frac,
    symbol_frac,
)


def judge(text: str, kind: str = "tales", **config: object):  # type: ignore[no-untyped-def]
    document = Document(id="d", source="s", kind=kind, licence="l", work="w", text=text)
    return Quality(Config(**config)).judge(document)  # type: ignore[arg-type]


def test_common_ngram_counts_the_characters_of_all_its_occurrences() -> None:
    found = ["aa", "bb", "x1", "aa", "bb", "y2", "aa", "bb", "z3", "qq"]
    # the 2-gram "aa bb" three times: 12 of 20 characters
    assert common_ngram_chars_frac(found) == 12 / 20


def test_an_ngram_that_occurs_once_is_not_common() -> None:
    assert common_ngram_chars_frac(["a", "long", "list", "of", "words"]) == 0.0
    assert common_ngram_chars_frac([]) == 0.0
    assert common_ngram_chars_frac(["one"]) == 0.0


def test_duplicate_ngrams_count_every_covered_word_once() -> None:
    found = ["a", "b", "c", "d", "e", "f", "a", "b", "c", "d", "e", "f", "g"]
    # 5-grams at 6 and 7 occurred before; together they cover words 6 to 11: 6 of 13 characters
    assert duplicate_ngram_chars_frac(found) == 6 / 13
    assert duplicate_ngram_chars_frac(["a", "b", "c", "d", "e", "f", "a", "b", "c", "d"]) == 0.0
    assert duplicate_ngram_chars_frac(list("aaaa")) == 0.0


def test_symbols_are_hashes_or_ellipses_for_each_word() -> None:
    assert symbol_frac("wait... what… # ok....", 4) == 3 / 4
    assert symbol_frac("", 0) == 0.0


def test_speaker_marks_are_no_words() -> None:
    chat = "A: one two three four\nB: five six seven eight the"
    assert judge(chat, min_words=9).keep
    assert judge(chat, min_words=10).reason == "too_short"


def test_short_talk_is_not_judged_for_repetition() -> None:
    talk = "A: how are you\nB: how are you\nA: how are you doing the same\nB: how are you"
    assert judge(talk, "chat").keep
    assert judge(talk, "chat", min_words_for_repetition=5).reason == "common_ngram"


def test_swear_words_count_only_in_the_kinds_named() -> None:
    text = "the bitch and her five puppies slept in the old barn all day"
    assert judge(text, "tales").keep
    assert judge(text, "chat").reason == "swearing"
    assert judge(text, "chat", max_swear_words=1).keep


def test_the_verdict_carries_the_value_that_broke_the_rule() -> None:
    verdict = judge("the cat sat", min_words=10)
    assert (verdict.reason, verdict.score) == ("too_short", 3)


def test_the_first_broken_rule_names_the_reason() -> None:
    assert judge("a").reason == "too_short"
    assert judge("a " * 20).reason == "words_too_short"


@pytest.mark.parametrize("text", ["", "\n\n", "...", "你好"])
def test_nearly_nothing_is_too_short(text: str) -> None:
    assert judge(text).reason == "too_short"


def test_a_kind_may_have_limits_of_its_own() -> None:
    poem = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
    own = {"poetry": {"min_mean_word": 1.0, "min_stop_words": 0}}
    assert judge(poem, "poetry").reason == "words_too_short"
    assert judge(poem, "poetry", by_kind={"poetry": {"min_mean_word": 1.0}}).reason == "no_stop_words"
    assert judge(poem, "poetry", by_kind=own).keep
    assert judge(poem, "tales", by_kind=own).reason == "words_too_short"
    assert (
        judge(poem, "poetry", by_kind=own, min_words=30).reason == "too_short"
    )  # what it does not name stays


def test_a_limit_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"by_kind.poetry: no such limit \(min_word\); limits: max_bullet"):
        Config(by_kind={"poetry": {"min_word": 1}})
