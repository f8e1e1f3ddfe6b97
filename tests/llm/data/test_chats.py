"""Chats: turns, topics and ratings of the records, and the profanity list with near misses."""

import json

import pytest
from fake_sources import conversation

from llm.data.chats import chat_document, is_clean, merge_turns, read_chitchat


def test_turns_join_a_senders_run_and_drop_empty_messages() -> None:
    messages = [("a", "hello"), ("a", " how\nare you "), ("b", "  "), ("a", "well?"), ("b", "fine")]
    assert merge_turns(messages) == ["hello how are you well?", "fine"]


def test_a_conversation_is_written_with_alternating_letters() -> None:
    document = chat_document(["hi", "hello", "bye"], id="x", source="s", licence="MIT", topic="greetings")
    assert document.text == "A: hi\nB: hello\nA: bye"
    assert document.work == "x"
    assert document.data == {"turns": ["hi", "hello", "bye"], "topic": "greetings", "rating": None}


def test_records_are_read_with_topic_and_mean_rating() -> None:
    record = conversation(1, n_turns=4, topic="Mozart?") | {
        "ratings": {"witty": 3, "upbeat": 4, "interesting": 8}
    }
    unrated = {key: value for key, value in conversation(2).items() if key not in ("ratings", "prompt")}
    rated, plain = read_chitchat(
        json.dumps({"k1": record, "k2": unrated}).encode(), source="c-1", licence="MIT"
    )
    assert (rated.id, rated.kind, rated.source, rated.licence) == ("chitchat/k1", "chat", "c-1", "MIT")
    assert rated.data["rating"] == 5.0
    assert rated.data["topic"] == "Mozart?"
    assert rated.data["turns"][1] == "turn 1 of talk 1, what do you say and then some more"
    assert (plain.data["rating"], plain.data["topic"]) == (None, "")


@pytest.mark.parametrize("raw", [b"{", b"[1]", b'{"k": {"messages": 3}}', b"\xff"])
def test_foreign_bytes_are_refused_with_the_source_named(raw: bytes) -> None:
    with pytest.raises(ValueError, match="chitchat-0.9: not the chitchat file"):
        list(read_chitchat(raw, source="chitchat-0.9", licence="MIT"))


@pytest.mark.parametrize("text", ["What the FUCK", "that is bullshit, man", "you b bitches", "wtf"])
def test_profanity_is_found(text: str) -> None:
    assert not is_clean(text)


@pytest.mark.parametrize(
    "text", ["a cocktail in Scunthorpe", "assess the class", "Dick Whittington", "shirt", "pussycat"]
)
def test_near_misses_are_clean(text: str) -> None:
    assert is_clean(text)
