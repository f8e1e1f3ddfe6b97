"""Rule prompts and their examples: the same form, an answer that the reward accepts, splits that never meet."""

import random
from itertools import islice

import pytest

from llm.align.reward.rules import score
from llm.data.document import Document
from llm.data.tasks import rules
from llm.data.tasks.rules import RuleParams

PARAMS = RuleParams(min_rank=0, max_rank=100, min_words=4, max_words=30, min_chars=10, max_chars=80)
VOCABULARY = ["king", "door", "apple", "river", "garden", "lamp", "boat", "stone"]
TEXT = (
    "The king went through the door with an apple and saw the river.\n\n"
    "A garden, a lamp, a boat:\n\n"
    '"There it is," he said. The old man sat down beside the river. He never saw the sea.\n\n'
    "At last there came a boat! She took the lamp"
)
STORY = Document(id="t/1", source="s", kind="tales", licence="free", work="t", text=TEXT)


def rng() -> random.Random:
    return random.Random(9)


def prompt_of(document: Document) -> str:
    key = "messages" if "messages" in document.data else "prompt"
    return document.data[key][0]["content"]


def test_words_examples_are_real_paragraphs_that_hold_the_words() -> None:
    [example] = rules.words_examples([STORY], VOCABULARY, PARAMS, rng())
    assert (example.kind, example.source, example.licence, example.work) == ("rule", "s", "free", "t")
    prompt, answer = (message["content"] for message in example.data["messages"])
    assert answer == TEXT.split("\n\n")[0]
    chosen = prompt.removeprefix("Write a short story with the words ").removesuffix(".").split(", ")
    assert len(set(chosen)) == 3
    assert set(chosen) <= {"king", "door", "apple", "river"}
    rule = {"kind": "words", "words": chosen, "min_words": 4, "max_words": 30}
    assert score(rule, prompt, answer, ended=True) == 1.0


def test_gaps_are_plain_sentences_that_end_with_a_known_word() -> None:
    found = rules.gaps([STORY], VOCABULARY, PARAMS)
    assert [(gap.sentence, gap.answer) for gap in found] == [
        ("The king went through the door with an apple and saw the", "river"),
        ("The old man sat down beside the", "river"),
        ("At last there came a", "boat"),
    ]
    assert len({gap.key for gap in found}) == 3


def test_cloze_prompts_and_examples_agree_with_the_reward() -> None:
    gaps = rules.gaps([STORY], VOCABULARY, PARAMS)
    prompts = {prompt_of(p): p for p in rules.cloze_prompts(gaps, rng())}
    examples = list(rules.cloze_examples(gaps, rng()))
    assert len(prompts) == len(examples) == 3
    for example in examples:
        answer = example.data["messages"][1]["content"]
        prompt = prompts[prompt_of(example)]
        assert prompt.kind == "cloze"
        assert score(prompt.data["rule"], prompt_of(example), answer, ended=True) == 1.0
        assert prompt.work == "t"


def test_sums_are_right_and_half_of_the_first_are_small() -> None:
    prompts = list(islice(rules.sums_prompts(rng(), "train"), 100))
    small = 0
    for prompt in prompts:
        a, b = map(int, prompt_of(prompt).removeprefix("What is ").removesuffix("?").split(" + "))
        assert prompt.data["rule"] == {"kind": "sum", "answer": str(a + b)}
        assert 0 <= a < 100
        assert 0 <= b < 100
        small += max(a, b) < 10
    assert small == 50
    [example] = islice(rules.sums_examples(rng(), "train"), 1)
    assert (
        score(prompts[0].data["rule"], prompt_of(example), example.data["messages"][1]["content"], ended=True)
        == 1.0
    )


@pytest.mark.parametrize(
    "make", [rules.sums_prompts, lambda r, s: rules.words_prompts(VOCABULARY, PARAMS, r, s)]
)
def test_no_generated_prompt_is_in_both_splits(make: object) -> None:
    seen = {split: {d.work for d in make(random.Random(1), split)} for split in ("train", "validation")}
    assert not seen["train"] & seen["validation"]
    assert len(seen["train"]) > 2 * len(seen["validation"]) > 0


def test_all_sums_and_all_word_combinations_come_once() -> None:
    sums = [d.id for split in ("train", "validation") for d in rules.sums_prompts(rng(), split)]
    assert len(sums) == len(set(sums)) == 10_000
    combinations = [
        d.id for s in ("train", "validation") for d in rules.words_prompts(VOCABULARY, PARAMS, rng(), s)
    ]
    assert len(combinations) == len(set(combinations)) == 56  # 8 choose 3


def test_a_prompt_for_words_tells_the_rule_what_it_asked_for() -> None:
    [prompt] = islice(rules.words_prompts(VOCABULARY, PARAMS, rng(), "train"), 1)
    rule = prompt.data["rule"]
    assert prompt_of(prompt) == f"Write a short story with the words {', '.join(rule['words'])}."
    assert (rule["kind"], rule["min_words"], rule["max_words"]) == ("words", 4, 30)


def test_too_small_a_vocabulary_gives_no_prompts() -> None:
    assert list(rules.words_prompts(["king", "door"], PARAMS, rng(), "train")) == []


def test_params_are_checked() -> None:
    with pytest.raises(ValueError, match=r"min_rank \(5\) must be less than max_rank \(5\)"):
        RuleParams(min_rank=5, max_rank=5)
    with pytest.raises(ValueError, match="n_words"):
        RuleParams(n_words=0)
