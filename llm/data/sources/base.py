"""base: the interface of a text source, and what every source needs to make documents.

A source yields whole documents in a fixed order; it knows nothing of splits, sets or tasks. A document
with `data["turns"]` is a conversation, one without is prose. What a source leaves out it counts in
`skipped`, by reason. Where the text comes from nobody knows but the source: all later stages are blind to it.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeGuard

from llm.data.chats import chat_document, merge_turns
from llm.data.document import Document

ReadySet = Literal["sft", "preference"]


class Source(ABC):
    """Where documents come from."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents, the same ones in the same order every time.

        Raises:
            ValueError: the data is missing, damaged or not what was pinned; the message names it.
        """

    def ready(self, name: ReadySet) -> Iterator[Document] | None:
        """Documents of a set that the source holds ready-made, or None when the set is to be made from text."""
        return None

    def long_enough(self, document: Document | None, *, kind: str, min_chars: int) -> TypeGuard[Document]:
        """True when there is a document of `min_chars` characters; otherwise counts it as skipped."""
        if document is not None and len(document.text) >= min_chars:
            return True
        self.skipped[
            f"{kind}: shorter than {min_chars} characters" if min_chars > 1 else f"{kind}: empty"
        ] += 1
        return False


def is_chat(document: Document) -> bool:
    """True for a conversation, False for prose."""
    return "turns" in document.data


def to_document(
    value: Any, *, id: str, source: str, kind: str, licence: str, work: str = "", title: str = ""
) -> Document | None:
    """A row of a foreign data set -> a document: a string is prose, a list of messages a conversation.

    Returns None for an empty one. Raises ValueError when it is neither.
    """
    if isinstance(value, str):
        text = value.strip()
        data = {"title": title} if title else {}
        document = Document(
            id=id, source=source, kind=kind, licence=licence, work=work or id, text=text, data=data
        )
        return document if text else None
    turns = merge_turns((m["role"], m["content"]) for m in checked_messages(value) if m["role"] != "system")
    return chat_document(turns, id=id, source=source, kind=kind, licence=licence) if turns else None


def checked_messages(value: Any) -> list[dict[str, str]]:
    """The `messages` of a row as plain dicts. Raises ValueError when it is no list of {role, content}."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"expected text or a list of messages, found {_short(value)}")
    for message in value:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise ValueError(f"expected a message {{role, content}}, found {_short(message)}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def sft_document(value: Any, *, id: str, source: str, licence: str) -> Document:
    """A ready-made conversation to learn from: it must hold an assistant message."""
    messages = checked_messages(value)
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"expected a conversation that ends with the assistant, found {_short(messages[-1])}"
        )
    data = {"messages": messages}
    return Document(id=id, source=source, kind="chat", licence=licence, work=id, data=data)


def preference_document(row: dict[str, Any], *, id: str, source: str, licence: str) -> Document:
    """A ready-made pair: `chosen` and `rejected` as message lists or as texts beside a `prompt`."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt = row.get("prompt")
        messages = checked_messages(
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        )
    else:
        messages = checked_messages(chosen)
        chosen, rejected = messages.pop()["content"], checked_messages(rejected)[-1]["content"]
    if not messages or messages[-1]["role"] != "user":
        raise ValueError(f"expected a prompt that ends with the user, found {_short(messages)}")
    data = {"prompt": messages, "chosen": chosen, "rejected": rejected}
    return Document(id=id, source=source, kind="pair", licence=licence, work=id, data=data)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
