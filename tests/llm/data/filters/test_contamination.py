"""Decontamination: planted items are found, nothing else is; equal to sets of tuples."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.benchmarks import READERS, benchmark_texts
from llm.data.document import Document, write_documents
from llm.data.filters.contamination import Config, Contamination, _words, build

ROOT = Path(__file__).resolve().parents[4]
ITEM = "which of these seven animals is said to have carried nine blue stones over frozen hills?"
FILLER = "Once upon a time there was a duck that swam to the far shore and saw the moon rise over the reeds. "


def document(text: str, name: str = "d") -> Document:
    return Document(id=name, source="t", kind="tales", licence="CC0", work=name, text=text)


def fitted(items: dict[str, list[str]], texts: list[str], **fields) -> Contamination:
    filter_ = build(Config(**fields))
    filter_.refer({name: [(text,) for text in texts] for name, texts in items.items()})
    filter_.fit([document(text, str(i)) for i, text in enumerate(texts)])
    return filter_


def test_every_planted_item_is_found_in_any_dress() -> None:
    dresses = [
        ITEM,
        ITEM.upper(),
        ITEM.replace(" ", "\n"),
        ITEM.replace(" seven", ", the seven"),
        f"A: {ITEM}",
    ]
    texts = [FILLER * 3 + dress + FILLER for dress in dresses]
    filter_ = fitted({"quiz": [ITEM]}, texts)
    assert [filter_.judge(document(text)).reason for text in texts] == ["contaminated"] * len(dresses)
    assert filter_.facts() == {"dirty_items_frac": {"quiz": 1.0}}


def test_apostrophes_of_both_shapes_are_the_same() -> None:
    item = "it isn't what the miller's daughter said that they didn't believe but how she'd said it"
    text = FILLER + item.replace("'", "’")
    assert fitted({"quiz": [item]}, [text]).judge(document(text)).reason == "contaminated"


def test_unrelated_text_is_kept_and_items_stay_clean() -> None:
    filter_ = fitted({"quiz": [ITEM]}, [FILLER * 5])
    verdict = filter_.judge(document(FILLER * 5))
    assert verdict.keep
    assert verdict.text == FILLER * 5
    assert filter_.facts() == {"dirty_items_frac": {"quiz": 0.0}}


def test_short_items_count_whole_wherever_they_stand() -> None:
    nine = "purple owls never whistle before nine o'clock on mondays"
    texts = [FILLER + nine, FILLER + nine.replace("owls", "cats")]
    filter_ = fitted({"quiz": [nine]}, texts)
    assert [filter_.judge(document(text)).keep for text in texts] == [False, True]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", True),
        (FILLER + "\n{}", True),
        ("{}\n" + FILLER, True),
        ("A: hello\nB: {}\n\nA: the end", True),
        (FILLER + "{}", False),
        ("{} and then some", False),
        ("what is\n7 + 25?", False),
        ("what is 7 + 26?", False),
    ],
)
def test_very_short_items_count_where_they_are_a_whole_line(text: str, found: bool) -> None:
    text = text.format("What is 7 + 25?")
    filter_ = fitted({"quiz": ["what is 7 + 25?", "ok"]}, [text])
    assert filter_.judge(document(text)).keep is not found
    assert filter_.facts() == {"dirty_items_frac": {"quiz": 0.5 * found}}
    assert fitted({"quiz": ["what is 7 + 25?"]}, [text], min_line_words=8).judge(document(text)).keep


def test_three_words_are_no_evidence() -> None:
    assert fitted({"quiz": ["so good morning"]}, ["so good morning"]).judge(document("so good morning")).keep


def test_a_question_quoted_without_its_answer_is_found() -> None:
    question = "which famous general carried nine blue stones over frozen hills?"
    answer = "It was the duke of nowhere, in a hard winter."
    filter_ = build(Config())
    filter_.refer({"quiz": [(f"{question}\n{answer}", question)], "other": [(f"{question}\n{answer}",)]})
    texts = [FILLER + question, FILLER + answer, f"{FILLER} {question} {answer}"]
    filter_.fit([document(texts[0])])
    assert [filter_.judge(document(text)).keep for text in texts] == [False, True, False]
    assert filter_.facts() == {"dirty_items_frac": {"quiz": 1.0, "other": 0.0}}


def test_chinese_goes_by_characters() -> None:
    item = "从前有一只小鸭子在湖里游泳湖水很冷"
    texts = [f"他说：{item}。真的。", "从前有一只小狗在家里睡觉天气很好啊朋友"]
    filter_ = fitted({"quiz": [item]}, texts)
    assert [filter_.judge(document(text)).keep for text in texts] == [False, True]


def test_templates_of_a_benchmark_and_common_phrases_are_no_evidence() -> None:
    template = "please read all of this very carefully and answer each question below in full sentences"
    items = [f"{template} number {i}" for i in range(12)]
    assert fitted({"quiz": items}, [template]).judge(document(template)).keep
    assert not fitted({"quiz": items[:5]}, [template]).judge(document(template)).keep
    many = [f"{FILLER} {ITEM} {i}" for i in range(11)]
    assert fitted({"quiz": [ITEM]}, many).judge(document(many[0])).keep
    assert not fitted({"quiz": [ITEM]}, many[:10]).judge(document(many[0])).keep


def test_cutting_leaves_what_is_far_enough_away() -> None:
    before, after = "b" * 300 + ". ", " " + "c" * 150
    filter_ = fitted({"quiz": [ITEM]}, [before + ITEM + after], action="cut", margin=100)
    verdict = filter_.judge(document(before + ITEM + after))
    assert verdict.keep
    assert (
        verdict.text == "b" * 202
    )  # 100 characters on either side are gone, and what is left behind is too short
    assert verdict.edits == {"cut": 1}
    whole = filter_.judge(document(ITEM))
    assert (whole.keep, whole.reason) == (False, "contaminated")


WORDS = st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "the"]), max_size=40).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(items=st.lists(WORDS, min_size=1, max_size=4), text=WORDS)
def test_hits_equal_an_intersection_of_sets(items: list[str], text: str) -> None:
    filter_ = fitted({"quiz": items}, [], n=4, min_words=2, min_line_words=2)
    names = [word for word, _, _ in _words(text)]

    def grams(words: list[str], n: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    expected = False
    for item in items:
        words = [word for word, _, _ in _words(item)]
        n = min(4, len(words))
        expected |= n >= 2 and bool(grams(words, n) & grams(names, n))
    assert filter_.judge(document(text)).keep is not expected


def test_every_set_an_evaluation_task_reads_is_a_benchmark() -> None:
    read = set()
    for path in (ROOT / "llm/eval/tasks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "validation":
                read |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    assert {"pretrain", "preference", "prompts"} <= read <= set(READERS)


def test_items_are_question_and_answer(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "why?"}]
    payloads = {
        "pretrain": {"text": "a tale"},
        "sft": {"data": {"messages": [*said, {"role": "assistant", "content": "so."}]}},
        "preference": {"data": {"prompt": said, "chosen": "because", "rejected": "no"}},
        "prompts": {"data": {"prompt": said, "rule": {}}},
    }
    for name, payload in payloads.items():
        one = Document(id="x", source="s", kind="k", licence="PD", work="w", **payload)
        write_documents(tmp_path / name / "validation.jsonl", [one])
    found = benchmark_texts(tmp_path)
    assert found == {
        "pretrain": [("a tale",)], "sft": [("why?\nso.", "why?")], "preference": [("why?\nbecause", "why?")],
        "prompts": [("why?",)],
    }  # fmt: skip
    write_documents(tmp_path / "sft" / "validation.jsonl", [document("no messages", "odd")])
    with pytest.raises(ValueError, match=re.escape("item 'odd' is not as its set demands")):
        benchmark_texts(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_words": 14}, "min_words"),
        ({"min_line_words": 9}, "min_line_words"),
        ({"max_items": 0}, "max_items"),
    ],
)
def test_config_names_what_is_wrong(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**fields)
