"""chats: human conversations -> documents; one line a turn, `A: …` and `B: …`, A speaks first."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from llm.data.document import Document

# Whole words, lower case, inflections listed: a short list that a reader can check beats a long one.
PROFANITY = re.compile(
    r"\b(?:f+u+c+k\w*|motherf\w*|sh[i1]t\w*|bullshit\w*|bitch\w*|cunt\w*|ass|asshole\w*|piss\w*|bastard\w*"
    r"|(?-i:dick)|dick(?:s|head\w*)|cock(?:s|sucker\w*)?|puss(?:y|ies)|slut\w*|whore\w*|nigg\w*"
    r"|fag(?:s|got\w*)?|retard\w*|sex(?:y|ual\w*)?|porn\w*|nudes?|rape[ds]?|rapist\w*|horny|wtf|stfu)\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=1 << 18)
def is_clean(text: str) -> bool:
    """True when no word of the profanity list occurs."""
    return PROFANITY.search(text) is None


def chat_document(
    turns: Sequence[str],
    *,
    id: str,
    source: str,
    licence: str,
    kind: str = "chat",
    topic: str = "",
    rating: float | None = None,
) -> Document:
    """A conversation as a document; speakers alternate. `data` keeps the turns for the tasks made of them."""
    text = "\n".join(f"{'AB'[i % 2]}: {turn}" for i, turn in enumerate(turns))
    data = {"turns": list(turns), "topic": topic, "rating": rating}
    return Document(id=id, source=source, kind=kind, licence=licence, work=id, text=text, data=data)


def read_chitchat(raw: bytes, *, source: str, licence: str) -> Iterator[Document]:
    """Conversations of chitchat-dataset's `dataset.json`: {id: {messages, prompt, ratings}}.

    `messages` is a list of turns, a turn a list of messages one person sent in a row. `rating` is the mean
    of the 0-10 scores for witty, interesting and upbeat, None where nobody rated.

    Raises:
        ValueError: the bytes are not such a file.
    """
    try:
        for key, record in json.loads(raw).items():
            ratings = list((record.get("ratings") or {}).values())
            yield chat_document(
                merge_turns(
                    (message["sender"], message["text"]) for turn in record["messages"] for message in turn
                ),
                id=f"chitchat/{key}",
                source=source,
                licence=licence,
                topic=record.get("prompt") or "",
                rating=sum(ratings) / len(ratings) if ratings else None,
            )
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source}: not the chitchat file this version was written for ({error!r})"
        ) from None


def merge_turns(messages: Any) -> list[str]:
    """(sender, text) pairs -> turns: whitespace collapsed, empty messages dropped, one sender's run joined."""
    turns: list[str] = []
    last = None
    for sender, text in messages:
        words = " ".join(text.split())
        if not words:
            continue
        if sender == last:
            turns[-1] += " " + words
        else:
            turns.append(words)
        last = sender
    return turns
