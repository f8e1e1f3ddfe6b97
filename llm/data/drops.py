"""drops: what the stages threw away, counted by stage, reason and kind, with the beginnings of some examples.

An example is a few words of somebody's text in a file that is kept and shared: personal data is masked and
profanity starred first, whatever filter the document fell to.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm.data.chats import PROFANITY
from llm.data.filters.pii import mask
from llm.data.funnel import Dropped, n_bytes
from llm.data.words import words

_MASKED_CHARS = 4000  # an example is cut from so much masked text: masking a whole novel would take its time


@dataclass(kw_only=True)
class Group:
    """Documents of one kind that one stage dropped for one reason. lengths: words of each."""

    stage: str
    reason: str
    kind: str
    text_bytes: int = 0
    lengths: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Drops:
    """groups: by stage, most documents of one kind first. examples: stage -> reason -> the first ones."""

    groups: list[Group]
    examples: dict[str, dict[str, list[dict[str, Any]]]]

    def nested(self) -> dict[str, Any]:
        """stage -> reason -> kind -> numbers."""
        out: dict[str, Any] = {}
        for group in self.groups:
            out.setdefault(group.stage, {}).setdefault(group.reason, {})[group.kind] = {
                "docs": len(group.lengths),
                "bytes": group.text_bytes,
                "median_words": float(np.median(group.lengths)),
            }
        return out


def collect_drops(dropped: Mapping[str, Iterable[Dropped]], *, n_examples: int, example_chars: int) -> Drops:
    """Read what each stage dropped, one document at a time."""
    groups: dict[tuple[str, str, str], Group] = {}
    examples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for stage, drops in dropped.items():
        for drop in drops:
            document = drop.document
            key = (stage, drop.reason, document.kind)
            group = groups.setdefault(key, Group(stage=stage, reason=drop.reason, kind=document.kind))
            group.text_bytes += n_bytes(document.text)
            group.lengths.append(len(words(document.text)))
            shown = examples.setdefault(stage, {}).setdefault(drop.reason, [])
            if len(shown) < n_examples:
                shown.append(_example(drop, example_chars))
    stages = list(dropped)
    ordered = sorted(
        groups.items(), key=lambda item: (stages.index(item[0][0]), -len(item[1].lengths), item[0])
    )
    return Drops(groups=[group for _, group in ordered], examples=examples)


def _example(drop: Dropped, n_chars: int) -> dict[str, Any]:
    return {
        "id": drop.document.id,
        "kind": drop.document.kind,
        "text": beginning(drop.document.text, n_chars),
        "facts": drop.facts,
    }


def beginning(text: str, n_chars: int) -> str:
    """The first characters of a text on one line, fit to be shown: personal data masked, profanity starred.

    Lines are set apart by ` / `. A text that goes on ends in `…`, after a whole word where there are spaces.
    """
    masked = PROFANITY.sub("***", mask(text[:_MASKED_CHARS])[0])
    line = " / ".join(_lines(masked))
    if len(line) <= n_chars and len(text) <= _MASKED_CHARS:
        return line
    cut = line[:n_chars]
    at_space = cut.rfind(" ")
    return (cut[:at_space] if at_space > n_chars // 2 else cut).rstrip(" /") + "…"


def _lines(text: str) -> Iterator[str]:
    """Lines with their white space collapsed, without empty ones."""
    return (" ".join(line.split()) for line in text.splitlines() if line.strip())
