"""What every source shares: rows of foreign data become documents or a clear complaint."""

import pytest

from llm.data.sources.base import checked_messages, is_chat, preference_document, sft_document, to_document

ORIGIN = {"source": "s", "licence": "MIT"}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]


def test_text_is_prose() -> None:
    document = to_document(" Once. ", id="a", kind="text", work="w", title="T", **ORIGIN)
    assert document is not None
    assert (document.text, document.work, document.data) == ("Once.", "w", {"title": "T"})
    assert not is_chat(document)


def test_messages_are_a_conversation_without_the_system_prompt() -> None:
    rows = [
        {"role": "system", "content": "Be kind."},
        *TALK,
        {"role": "assistant", "content": "How are you?"},
    ]
    document = to_document(rows, id="a", kind="chat", **ORIGIN)
    assert document is not None
    assert document.text == "A: Hi\nB: Hello there How are you?"
    assert is_chat(document)


@pytest.mark.parametrize("value", ["", " \n", [{"role": "system", "content": "x"}]])
def test_nothing_gives_no_document(value: object) -> None:
    assert to_document(value, id="a", kind="text", **ORIGIN) is None


@pytest.mark.parametrize(
    "value", [None, 3, [], ["hi"], [{"role": "user"}], [{"role": "user", "content": None}]]
)
def test_anything_else_is_refused_with_the_value_seen(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        checked_messages(value)


def test_a_conversation_to_learn_from_ends_with_the_assistant() -> None:
    assert sft_document(TALK, id="a", **ORIGIN).data == {"messages": TALK}
    with pytest.raises(ValueError, match="ends with the assistant"):
        sft_document(TALK[:1], id="a", **ORIGIN)


def test_pairs_come_as_message_lists_or_as_texts() -> None:
    bad = [TALK[0], {"role": "assistant", "content": "Go away"}]
    expected = {"prompt": TALK[:1], "chosen": "Hello there", "rejected": "Go away"}
    lists = {"prompt": "Hi", "chosen": TALK, "rejected": bad}
    texts = {"prompt": "Hi", "chosen": "Hello there", "rejected": "Go away"}
    assert preference_document(lists, id="a", **ORIGIN).data == expected
    assert preference_document(texts, id="a", **ORIGIN).data == expected


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "yes", "rejected": "no"},
        {"prompt": TALK, "chosen": "yes", "rejected": "no"},
        {"chosen": TALK[1:], "rejected": TALK[1:]},
    ],
)
def test_a_pair_needs_a_prompt_that_ends_with_the_user(row: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        preference_document(row, id="a", **ORIGIN)
