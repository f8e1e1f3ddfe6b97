"""What was dropped, counted and shown: nothing private, nothing foul, never much."""

from llm.data.document import Document
from llm.data.drops import beginning, collect_drops
from llm.data.funnel import Dropped


def drop(name: str, text: str, reason: str, kind: str = "chat", **facts: object) -> Dropped:
    document = Document(id=name, source="s", kind=kind, licence="l", work=name, text=text)
    return Dropped(document=document, reason=reason, facts=dict(facts))


DROPPED = {
    "dedup": [drop("a", "x y z", "near_duplicate", "tales", kept_id="k")],
    "filter": [
        drop("b", "one two", "too_short", slot="quality", score=2.0),
        drop("c", "one", "too_short", "tales"),
        drop("d", "é", "too_short"),
        drop("e", "three", "too_short"),
        drop("f", "gone", "other"),
    ],
}


def test_groups_are_counted_and_the_first_examples_shown() -> None:
    drops = collect_drops(DROPPED, n_examples=2, example_chars=50)
    assert [(g.stage, g.reason, g.kind, len(g.lengths)) for g in drops.groups] == [
        ("dedup", "near_duplicate", "tales", 1),
        ("filter", "too_short", "chat", 3),
        ("filter", "other", "chat", 1),
        ("filter", "too_short", "tales", 1),
    ]
    assert drops.nested()["filter"]["too_short"]["chat"] == {"docs": 3, "bytes": 14, "median_words": 1.0}
    assert [example["id"] for example in drops.examples["filter"]["too_short"]] == ["b", "c"]
    assert drops.examples["dedup"]["near_duplicate"] == [
        {"id": "a", "kind": "tales", "text": "x y z", "facts": {"kept_id": "k"}}
    ]


def test_no_examples_when_none_are_asked_for() -> None:
    assert collect_drops(DROPPED, n_examples=0, example_chars=50).examples["filter"]["other"] == []


def test_private_data_is_masked_before_the_cut() -> None:
    text = "A: write to jane.doe@example.com or call 202-456-1111, please"
    assert beginning(text, 100) == "A: write to <EMAIL> or call <PHONE>, please"
    for n_chars in range(5, 60):
        shown = beginning(text, n_chars)
        assert "jane" not in shown
        assert "202" not in shown


def test_profanity_is_starred_and_lines_become_one() -> None:
    assert beginning("A: what  the fuck\n\nB: hm", 100) == "A: what the *** / B: hm"


def test_a_long_text_is_cut_after_a_word_and_a_text_without_spaces_anywhere() -> None:
    assert beginning("the quick brown fox", 12) == "the quick…"
    assert beginning("the quick brown fox", 19) == "the quick brown fox"
    assert beginning("床前明月光疑是地上霜", 4) == "床前明月…"
    assert beginning("word " * 100_000, 12) == "word word…"
