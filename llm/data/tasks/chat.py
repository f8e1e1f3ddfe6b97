"""chat: supervised examples and preference pairs out of human conversations.

What is learned is the reply a person really gave. A pair needs no judge: the true next turn is `chosen`, a
turn of another conversation is `rejected`; its kind says how hard that is to tell (`easy`: other topic,
`hard`: same topic).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm.data.chats import is_clean
from llm.data.document import Document


@dataclass(frozen=True, kw_only=True)
class ChatParams:
    """Which turns may be learned from.

    min_rating: mean human rating, 0-10; unrated conversations are used only when it is 0.
    min_chars, max_chars: length of a reply. max_turns, max_context_chars: length of what stands before it.
    topic_frac: share of the windows at the start of a conversation that show its topic as first line.
    """

    min_rating: float = 5.0
    min_chars: int = 10
    max_chars: int = 300
    max_turns: int = 5
    max_context_chars: int = 360
    topic_frac: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.min_chars <= self.max_chars:
            raise ValueError(f"min_chars ({self.min_chars}) must lie in 1..max_chars ({self.max_chars})")
        if self.max_turns < 1:
            raise ValueError(f"max_turns ({self.max_turns}) must be at least 1")


class Window(NamedTuple):
    """A context that ends with the user, and the true reply."""

    document: Document
    end: int
    context: list[dict[str, str]]
    reply: str


def chat_examples(chats: list[Document], params: ChatParams, rng: random.Random) -> Iterator[Document]:
    """Conversations of 1 or more exchanges, each reply by the same person, in random order."""
    for window in _windows(chats, params, rng):
        messages = [*window.context, {"role": "assistant", "content": window.reply}]
        yield _derived(window, "sft", "chat", {"messages": messages})


def chat_pairs(
    chats: list[Document], params: ChatParams, rng: random.Random, *, same_topic: bool
) -> Iterator[Document]:
    """Preference pairs: rejected turns come from conversations on the same topic (hard) or another (easy)."""
    pool = [
        (document, turn)
        for document in chats
        if _usable(document, params)
        for turn in document.data["turns"]
        if _is_reply(turn, params)
    ]
    by_topic: dict[str, list[tuple[Document, str]]] = {}
    for document, turn in pool:
        by_topic.setdefault(document.data["topic"], []).append((document, turn))
    kind = "hard" if same_topic else "easy"
    for window in _windows(chats, params, rng):
        topic = window.document.data["topic"]
        if same_topic and not topic:
            continue
        rejected = _other_turn(by_topic[topic] if same_topic else pool, window, rng, same_topic=same_topic)
        if rejected:
            data = {"prompt": window.context, "chosen": window.reply, "rejected": rejected}
            yield _derived(window, "pair", kind, data)


def _other_turn(
    pool: list[tuple[Document, str]], window: Window, rng: random.Random, *, same_topic: bool
) -> str:
    """A turn of another conversation, or nothing when some draws find none (one conversation on a topic)."""
    for _ in range(20):
        document, turn = pool[rng.randrange(len(pool))]
        fits = same_topic or document.data["topic"] != window.document.data["topic"]
        if fits and document.work != window.document.work and turn != window.reply:
            return turn
    return ""


def _windows(chats: list[Document], params: ChatParams, rng: random.Random) -> Iterator[Window]:
    """Every usable (conversation, reply) once, in random order."""
    places = [
        (document, end)
        for document in chats
        if _usable(document, params)
        for end in range(1, len(document.data["turns"]))
        if _is_reply(document.data["turns"][end], params)
    ]
    rng.shuffle(places)
    for document, end in places:
        context = _context(document, end, params, rng)
        if context:
            yield Window(document, end, context, document.data["turns"][end])


def _context(document: Document, end: int, params: ChatParams, rng: random.Random) -> list[dict[str, str]]:
    """A random odd number of turns before `end`, user first; empty when the nearest turn is unfit.

    Going back stops at a reply that should not be learned: every assistant turn of an example is scored.
    """
    turns = document.data["turns"]
    wanted = rng.randrange(1, params.max_turns + 1, 2)
    start = end
    chars = 0
    while start - 1 >= 0 and end - start < wanted:
        step = [turns[start - 1]] if start == end else turns[start - 2 : start]
        chars += sum(map(len, step))
        is_known_reply = start == end or (start >= 2 and _is_reply(step[-1], params))
        if chars > params.max_context_chars or not is_known_reply or not all(map(is_clean, step)):
            break
        start -= len(step)
    messages = [
        {"role": "assistant" if (end - i) % 2 == 0 else "user", "content": turns[i]}
        for i in range(start, end)
    ]
    topic = document.data["topic"]
    if messages and start <= 1 and topic and rng.random() < params.topic_frac:
        messages[0]["content"] = f"{topic}\n{messages[0]['content']}"
    return messages


def _usable(document: Document, params: ChatParams) -> bool:
    rating = document.data["rating"]
    return params.min_rating <= 0 or (rating is not None and rating >= params.min_rating)


def _is_reply(turn: str, params: ChatParams) -> bool:
    return params.min_chars <= len(turn) <= params.max_chars and is_clean(turn)


def _derived(window: Window, prefix: str, kind: str, data: dict[str, Any]) -> Document:
    origin = window.document
    return Document(
        id=f"{prefix}-{kind}/{origin.id}/{window.end}",
        source=origin.source,
        kind=kind,
        licence=origin.licence,
        work=origin.work,
        data=data,
    )
