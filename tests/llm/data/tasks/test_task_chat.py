"""Chat examples and pairs: only good replies are learned, only other conversations are rejected."""

import random

import pytest

from llm.data.chats import chat_document
from llm.data.document import Document
from llm.data.tasks.chat import ChatParams, chat_examples, chat_pairs

PARAMS = ChatParams(
    min_rating=5.0, min_chars=10, max_chars=60, max_turns=5, max_context_chars=200, topic_frac=0.5
)


def talk(
    name: str, topic: str = "pigs", rating: float | None = 7.0, n: int = 8, turns: list[str] | None = None
) -> Document:
    turns = turns or [f"this is turn {i} of talk {name}" for i in range(n)]
    return chat_document(turns, id=name, source="s", licence="MIT", topic=topic, rating=rating)


def rng() -> random.Random:
    return random.Random(5)


def test_an_example_is_a_piece_of_a_conversation_that_ends_with_the_true_reply() -> None:
    chat = talk("a")
    turns = chat.data["turns"]
    examples = list(chat_examples([chat], PARAMS, rng()))
    assert len({example.id for example in examples}) == len(examples) == 7  # every turn but the first
    for example in examples:
        end = int(example.id.rsplit("/", 1)[1])
        messages = example.data["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        contents = [message["content"].removeprefix("pigs\n") for message in messages]
        assert contents == turns[end + 1 - len(contents) : end + 1]
        assert len(messages) <= PARAMS.max_turns + 1
        assert (example.kind, example.work, example.source, example.licence) == ("chat", "a", "s", "MIT")
    assert {len(example.data["messages"]) for example in examples} >= {2, 4}


def test_the_topic_may_stand_in_front_at_the_start_only() -> None:
    always = ChatParams(**{**vars(PARAMS), "topic_frac": 1.0})
    for example in chat_examples([talk(str(n)) for n in range(5)], always, rng()):
        first = example.data["messages"][0]["content"]
        starts = "turn 0 of" in first or "turn 1 of" in first
        assert first.startswith("pigs\n") == starts
    never = ChatParams(**{**vars(PARAMS), "topic_frac": 0.0})
    assert not any("pigs\n" in str(e.data) for e in chat_examples([talk("a")], never, rng()))


@pytest.mark.parametrize(
    "chat",
    [
        talk("low", rating=4.9),
        talk("unrated", rating=None),
        talk("short", turns=["hello my friend", "ok"]),
        talk("long", turns=["hello my friend", "x" * 61]),
        talk("rude", turns=["hello my friend", "well, fuck you then"]),
        talk("answered", turns=["you are an asshole my friend", "that is not a nice thing"]),
        talk("much", turns=["hello my friend " * 20, "that is not a short thing"]),
    ],
    ids=lambda chat: chat.id,
)
def test_what_should_not_be_learned_is_left_out(chat: Document) -> None:
    assert list(chat_examples([chat], PARAMS, rng())) == []


def test_unrated_conversations_are_used_when_no_rating_is_asked_for() -> None:
    lenient = ChatParams(**{**vars(PARAMS), "min_rating": 0.0})
    assert len(list(chat_examples([talk("a", rating=None), talk("b", rating=2.0)], lenient, rng()))) == 14


def test_every_assistant_turn_of_an_example_is_a_good_reply() -> None:
    chat = talk(
        "a", turns=["good morning to you", "ok", "so what did you do", "I went to the sea", "how nice of you"]
    )
    for example in chat_examples([chat] * 1, PARAMS, rng()):
        replies = [m["content"] for m in example.data["messages"] if m["role"] == "assistant"]
        assert "ok" not in replies


def test_the_rejected_turn_comes_from_another_conversation_of_the_right_topic() -> None:
    chats = [talk(f"{topic}{n}", topic=topic) for topic in ("pigs", "money", "music") for n in range(3)]
    owner = {turn: chat for chat in chats for turn in chat.data["turns"]}
    for same_topic, kind in ((True, "hard"), (False, "easy")):
        pairs = list(chat_pairs(chats, PARAMS, rng(), same_topic=same_topic))
        assert len(pairs) == len({pair.id for pair in pairs}) == 63
        for pair in pairs:
            assert pair.kind == kind
            assert pair.data["prompt"][-1]["role"] == "user"
            chosen, rejected = owner[pair.data["chosen"]], owner[pair.data["rejected"]]
            assert chosen.work == pair.work != rejected.work
            assert (chosen.data["topic"] == rejected.data["topic"]) == same_topic


def test_pairs_need_a_second_conversation() -> None:
    assert list(chat_pairs([talk("a")], PARAMS, rng(), same_topic=True)) == []
    assert list(chat_pairs([talk("a"), talk("b", topic="money")], PARAMS, rng(), same_topic=True)) == []
    assert list(chat_pairs([talk("a"), talk("b", topic="")], PARAMS, rng(), same_topic=True)) == []
    assert list(chat_pairs([], PARAMS, rng(), same_topic=False)) == []


def test_the_stream_depends_on_the_seed_only() -> None:
    chats = [talk(str(n)) for n in range(4)]
    first = [example.id for example in chat_examples(chats, PARAMS, random.Random(1))]
    assert first == [example.id for example in chat_examples(chats, PARAMS, random.Random(1))]
    assert first != [example.id for example in chat_examples(chats, PARAMS, random.Random(2))]


def test_params_are_checked() -> None:
    with pytest.raises(ValueError, match=r"min_chars \(9\) must lie in 1\.\.max_chars \(8\)"):
        ChatParams(min_chars=9, max_chars=8)
    with pytest.raises(ValueError, match="max_turns"):
        ChatParams(max_turns=0)
