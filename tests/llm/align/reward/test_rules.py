"""Rewards that are code: what earns them, and the ways to cheat that must not."""

import itertools
from typing import Any

import pytest

from llm.align.reward.rules import judge_words, score, split_words

RULE: dict[str, Any] = {"kind": "words", "words": ["fox", "river", "bread"], "min_words": 20, "max_words": 50}
PROMPT = "Write a short story with the words fox, river, bread."
STORY = (
    "Once a hungry fox came to the river. She saw an old man who carried warm bread home, "
    "and she asked him for a small piece. He laughed and gave her half."
)


def _score(completion: str, ended: bool = True, rule: dict[str, Any] = RULE) -> float:
    return score(rule, PROMPT, completion, ended=ended)


def test_a_story_with_all_the_words_earns_everything() -> None:
    assert _score(STORY) == 1.0
    assert _score(STORY.upper()) == 1.0


def test_each_part_costs_what_the_formula_says() -> None:
    assert _score(STORY, ended=False) == pytest.approx(0.75)
    assert _score(STORY.replace("bread", "soup")) == pytest.approx(0.75 * 2 / 3 + 0.25)
    short = "The fox found bread by the river and ate it."
    assert len(split_words(short)) == 10
    assert _score(short) == pytest.approx(0.5)
    story = " ".join(f"w{i}" for i in range(72)) + " fox river bread"
    assert _score(story) == pytest.approx(0.5)  # 75 words: half way from 50 to 100


@pytest.mark.parametrize("word", ["foxes", "foxglove", "outfox", "fox-hole"])
def test_only_whole_words_count(word: str) -> None:
    assert _score(STORY.replace("fox", word)) < 1.0
    assert judge_words(RULE, PROMPT, STORY.replace("fox", word), ended=True)["share"] == pytest.approx(2 / 3)


def test_punctuation_and_quotes_do_not_hide_a_word() -> None:
    assert _score(STORY.replace("fox", "“Fox!”").replace("bread", "(bread)")) == 1.0


CHEATS = {
    "the bare list": "fox, river, bread.",
    "the list, over and over": "fox river bread " * 10,
    "every order of the list": " ".join(
        " ".join(p) for p in itertools.permutations(["fox", "river", "bread"])
    )
    + " fox",
    "one sentence, over and over": "The fox ate bread at the river. " * 6,
    "one word, over and over, and the list": "fox river bread " + "very " * 30,
    "the prompt copied": PROMPT,
    "the prompt copied until long enough": (PROMPT + " ") * 4,
    "nothing": "",
    "only marks": "... !!! ???",
    "far too long": STORY + " ".join(f"word{i}" for i in range(200)),
}


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS.keys())
def test_cheating_earns_less_than_an_honest_story_without_one_of_the_words(cheat: str) -> None:
    honest = STORY.replace("bread", "soup")
    assert _score(cheat) < 0.3 < _score(honest)


def test_scores_stay_between_zero_and_one() -> None:
    texts = [*CHEATS.values(), STORY, "fox " * 500, "a" * 10_000, "狐狸 river", "\x00\n\t"]
    for text, ended in itertools.product(texts, (False, True)):
        assert 0.0 <= _score(text, ended) <= 1.0


def test_cloze_wants_the_one_word() -> None:
    rule = {"kind": "cloze", "answer": "river"}
    for right in ("river", "River.", ' "river" '):
        assert score(rule, "", right, ended=True) == 1.0
    for wrong in ("rivers", "the river", "river bread fox", "", "r iver"):
        assert score(rule, "", wrong, ended=True) == 0.0
    assert score(rule, "", "river", ended=False) == 0.0


def test_sum_wants_the_one_number() -> None:
    rule = {"kind": "sum", "answer": 42}
    for right in ("42", "42.", "It is 42!", "042"):
        assert score(rule, "", right, ended=True) == 1.0
    for wrong in ("41", "42" * 3000, "4 2", "40 41 42 43", "-42", "", "forty-two", "142"):
        assert score(rule, "", wrong, ended=True) == 0.0
    assert score(rule, "", "42", ended=False) == 0.0
    assert score({"kind": "sum", "answer": "-3"}, "", "-3", ended=True) == 1.0


def test_unusable_rules_are_named() -> None:
    with pytest.raises(ValueError, match="'story' is not one of words, cloze, sum"):
        score({"kind": "story"}, "", "", ended=True)
    with pytest.raises(ValueError, match="missing key 'min_words'"):
        score({"kind": "words", "words": ["a"]}, "", "", ended=True)
