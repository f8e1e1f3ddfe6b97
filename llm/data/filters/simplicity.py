"""Simplicity: keep documents whose words are mostly among the most frequent of the corpus itself.

Equations   (1)-(2) in docs/data/filters/simplicity.md
Source      this project; the thought behind TinyStories (Eldan & Li 2023, arXiv 2305.07759): small models
            learn to speak from small vocabularies
Cost        O(words) to fit, O(words) to judge; memory O(distinct words)
Differs     from TinyStories: text is chosen, not written
Shapes      none
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.words import words


@dataclass(frozen=True, kw_only=True)
class Config:
    """vocabulary: how many of the most frequent words count as simple. min_share: of a document's words."""

    vocabulary: int = 4000
    min_share: float = 0.93

    def __post_init__(self) -> None:
        if self.vocabulary < 1 or not 0.0 <= self.min_share <= 1.0:
            raise ValueError(
                f"vocabulary must be positive and min_share in [0, 1] ({self.vocabulary}, {self.min_share})"
            )


class Simplicity(Filter):
    """Share of words inside the corpus' own top list."""

    reasons = ("not_simple",)
    needs_fit = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.simple: frozenset[str] = frozenset()

    def fit(self, documents: Iterable[Document]) -> None:
        counts: Counter[str] = Counter()
        for document in documents:
            counts.update(words(document.text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))  # (1): ties by spelling
        self.simple = frozenset(word for word, _ in ranked[: self.config.vocabulary])

    def judge(self, document: Document) -> Verdict:
        found = words(document.text)
        score = sum(word in self.simple for word in found) / max(1, len(found))  # (2)
        if score < self.config.min_share:
            return drop("not_simple", document.text, score)
        return keep(document.text, score)


build = Simplicity
