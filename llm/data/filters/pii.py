"""Pii: mask personal data and keys, or drop the document, by sort; drop documents that are lists of them.

Equations   (1) in docs/data/filters/pii.md; comments below carry the same number
Source      Soldaini et al. 2024 (Dolma), arXiv 2402.00159: 1 to 5 hits mask, more drop
Cost        O(characters): one regular expression for each sort that a cheap look does not rule out
Differs     from Dolma: every match is checked (grammar, check digit, address class, entropy) before it counts;
            numbers of cards, accounts and persons and secret keys are looked for too
Shapes      none
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.pii_types import NAMES, SORTS

Action = Literal["mask", "drop", "keep"]

_BY_LOOK = {sort.look: sort for sort in SORTS}.values()  # each cheap expression once


@dataclass(frozen=True, kw_only=True)
class Config:
    """action: what a hit does, to itself (`mask`) or to its document (`drop`); `keep`: it is not looked for.

    actions: the same for single sorts, such as `{card: drop, ip: keep}`. max_hits: with more hits to mask the
    document is dropped.
    """

    action: Action = "mask"
    actions: dict[str, Action] = field(default_factory=dict)
    max_hits: int = 5

    def __post_init__(self) -> None:
        for name in self.actions:
            if name not in NAMES:
                raise ValueError(f"actions ({name}) must name sorts out of {', '.join(NAMES)}")
        if self.max_hits < 0:
            raise ValueError(f"max_hits ({self.max_hits}) must not be negative")

    def of(self, name: str) -> Action:
        """The action for a sort."""
        return self.actions.get(name, self.action)


class Pii(Filter):
    """Replaces each hit by a placeholder that names its sort."""

    reasons = ("forbidden_pii", "too_much_pii")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.wanted = frozenset(name for name in NAMES if config.of(name) != "keep")

    def judge(self, document: Document) -> Verdict:
        text, counts = mask(document.text, self.wanted)
        forbidden = sum(count for name, count in counts.items() if self.config.of(name) == "drop")
        if forbidden:
            return drop("forbidden_pii", document.text, float(forbidden))
        hits = sum(counts.values())
        if hits > self.config.max_hits:
            return drop("too_much_pii", document.text, float(hits))
        return keep(text, float(hits), counts)


def mask(text: str, wanted: Collection[str] = NAMES) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and the number of hits of each sort.

    Where hits overlap only one is masked, which may leave a part of the other that is a hit by itself: so the
    masked text is searched again, until nothing is found.
    """
    counts: Counter[str] = Counter()
    while found := find(text, wanted):
        pieces, last = [], 0
        for start, end, name in found:
            pieces += [text[last:start], f"<{name.upper()}>"]
            last = end
            counts[name] += 1
        text = "".join([*pieces, text[last:]])
    return text, dict(sorted(counts.items()))


def find(text: str, wanted: Collection[str] = NAMES) -> list[tuple[int, int, str]]:
    """Hits that do not overlap, from left to right: earlier sorts first, then longer hits, then from the left (1)."""
    looks = {sort.look: sort.look is None or sort.look.search(text) is not None for sort in _BY_LOOK}
    candidates = [
        (rank, start - end, start, end)
        for rank, sort in enumerate(SORTS)
        if sort.name in wanted and looks[sort.look]
        if not sort.triggers or any(trigger in text for trigger in sort.triggers)
        for start, end in sort.find(text)
    ]
    taken = bytearray(len(text) if candidates else 0)
    hits = []
    for rank, _, start, end in sorted(candidates):
        if not any(taken[start:end]):
            taken[start:end] = b"\x01" * (end - start)
            hits.append((start, end, SORTS[rank].name))
    return sorted(hits)


build = Pii
