"""base: the interface of a filter.

A filter judges one document at a time and never raises on its text: whatever a page holds, the answer is a
Verdict. `judge` is pure, so documents may be judged in any order or process; a filter that must look at the
corpus first does so in `fit`, and one that must know what models are measured on is told in `refer`. Counting,
writing the dropped documents and the order of filters are the caller's business (llm/data/filter.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm.data.document import Document

Item = tuple[str, ...]  # of a benchmark: texts, each of which gives it away


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """keep: the document stays, with `text` in place of its own. reason: why it was dropped, else empty.

    score: the number the decision rests on. edits: what was changed in a kept text, `{"email": 2}`.
    """

    keep: bool
    text: str
    reason: str = ""
    score: float | None = None
    edits: Mapping[str, int] = field(default_factory=dict)


class Filter:
    """Keeps, edits or drops documents. `reasons`: every reason this filter can give.

    What it holds after `refer` and `fit` must survive pickling: documents are judged in several processes.
    """

    reasons: tuple[str, ...] = ()
    needs_references = False
    needs_fit = False

    def refer(self, benchmarks: Mapping[str, Iterable[Item]]) -> None:
        """Take the items models are measured on, by benchmark, before anything else; see `needs_references`."""
        raise TypeError(f"{type(self).__name__} needs no references ({', '.join(benchmarks)})")

    def fit(self, documents: Iterable[Document]) -> None:
        """Look at the whole corpus before judging, as often as needed; only called when `needs_fit`."""
        raise TypeError(f"{type(self).__name__} needs no fit over {type(documents).__name__}")

    def facts(self) -> dict[str, Any]:
        """What `refer` and `fit` found out, for the metrics; nothing by default."""
        return {}

    def judge(self, document: Document) -> Verdict:
        """Decide about one document."""
        raise TypeError(f"{type(self).__name__} defines no judge for {document.id}")


def keep(text: str, score: float | None = None, edits: Mapping[str, int] | None = None) -> Verdict:
    """The document stays with this text."""
    return Verdict(keep=True, text=text, score=score, edits=edits or {})


def drop(reason: str, text: str, score: float | None = None) -> Verdict:
    """The document leaves for this reason."""
    return Verdict(keep=False, text=text, reason=reason, score=score)
