"""Story examples and pairs: the answers are the tales' own words."""

import random

import pytest

from llm.data.document import Document
from llm.data.tasks.story import CONTINUE, StoryParams, story_examples, story_pairs
from llm.data.tasks.text import sentences

PARAMS = StoryParams(min_chars=20, max_chars=80)


def story(name: str, *, n: int = 5, **data: str) -> Document:
    text = "\n\n".join(f"Paragraph {i} of {name} begins. It goes on here. Now it ends." for i in range(n))
    data = data or {"title": f"The {name}"}
    return Document(id=name, source="s", kind="tales", licence="free", work=f"w-{name}", text=text, data=data)


def rng() -> random.Random:
    return random.Random(3)


def examples(*stories: Document, params: StoryParams = PARAMS) -> list[tuple[str, str, str]]:
    made = list(story_examples(list(stories), params, rng()))
    assert len({example.id for example in made}) == len(made)
    return [(e.id.split("/")[-2], *(m["content"] for m in e.data["messages"])) for e in made]


def test_titles_give_openings_and_endings_and_paragraphs_their_followers() -> None:
    text = story("fox").text.split("\n\n")
    made = examples(story("fox"))
    for name, prompt, answer in made:
        if name == "next":
            step = text.index(answer)
            assert prompt in [form.format(passage=text[step - 1]) for form in CONTINUE]
        else:
            assert "The fox" in prompt
            assert answer == (text[0] if name == "tell" else text[-1])
    names = [name for name, _, _ in made]
    assert names.count("next") == 4
    assert names.count("tell") in (1, 2)  # two draws, equal wordings count once
    assert names.count("end") in (1, 2)


def test_a_part_of_a_tale_is_not_asked_for_by_its_title() -> None:
    made = examples(story("fox", title="The fox", section="Two"), story("hen", anything="x"))
    assert {name for name, _, _ in made} == {"next"}


def test_an_opening_is_cut_between_sentences() -> None:
    short = StoryParams(min_chars=20, max_chars=60)
    tell = [answer for name, _, answer in examples(story("fox"), params=short) if name == "tell"]
    assert set(tell) == {"Paragraph 0 of fox begins. It goes on here. Now it ends."}
    shorter = StoryParams(min_chars=20, max_chars=50)
    tell = [answer for name, _, answer in examples(story("fox"), params=shorter) if name == "tell"]
    assert set(tell) == {"Paragraph 0 of fox begins. It goes on here."}


def test_answers_that_break_off_are_not_used() -> None:
    text = "Once there was a little fox.\n\nThen the fox said to the hen:--\n\nAll right, said the old hen."
    odd = Document(id="x", source="s", kind="t", licence="l", work="x", text=text)
    assert [answer for _, _, answer in examples(odd)] == ["All right, said the old hen."]


def test_pairs_put_the_true_continuation_against_another_tale_or_a_shuffled_one() -> None:
    stories = [story(name) for name in ("fox", "hen", "cat")]
    pairs = list(story_pairs(stories, PARAMS, rng()))
    assert len({pair.id for pair in pairs}) == len(pairs) == 24
    shuffled = 0
    for index, pair in enumerate(pairs):
        name = pair.work.removeprefix("w-")
        chosen, rejected = pair.data["chosen"], pair.data["rejected"]
        assert f"of {name} " in chosen
        assert chosen != rejected
        if sorted(sentences(chosen)) == sorted(sentences(rejected)):
            shuffled += 1
            assert index % 2 == 1  # in turn
        else:
            assert f"of {name} " not in rejected
        assert [message["role"] for message in pair.data["prompt"]] == ["user"]
    assert shuffled == 12


def test_a_tale_alone_is_only_set_against_its_own_shuffled_sentences() -> None:
    pairs = list(story_pairs([story("fox")], PARAMS, rng()))
    assert len(pairs) == 4
    assert all(sorted(sentences(p.data["chosen"])) == sorted(sentences(p.data["rejected"])) for p in pairs)


def test_params_are_checked() -> None:
    with pytest.raises(ValueError, match="min_chars"):
        StoryParams(min_chars=0)
