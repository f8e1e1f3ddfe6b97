"""C4: keep the lines of a web page that look like sentences; drop pages that are mostly something else.

Equations   the tables in docs/data/filters/c4.md
Source      Raffel et al. 2020 (C4), arXiv 1910.10683, section 2.2, and its published code (c4_utils.py), which
            has the rules on long words and policies and the order of all of them
Cost        O(characters)
Differs     no list of bad words; sentences by our own rules instead of NLTK's Punkt
Shapes      none
"""

import re
from collections import Counter
from dataclasses import dataclass

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.sentences import sentence_breaks

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_END_MARKS = (".", "?", "!", '"', "'")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """min_words_per_line, max_word_chars: else the line goes. min_sentences: that must remain of the document.

    curly_brackets: whether a `{` in a good line drops the document; switch it off for code.
    """

    min_words_per_line: int = 3
    max_word_chars: int = 1000
    min_sentences: int = 5
    curly_brackets: bool = True

    def __post_init__(self) -> None:
        for name in ("min_words_per_line", "min_sentences"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must not be negative")
        if self.max_word_chars < 1:
            raise ValueError(f"max_word_chars ({self.max_word_chars}) must be positive")


class C4(Filter):
    """Removes lines, then counts sentences. `edits` counts the lines removed by rule, and citation marks."""

    reasons = ("lorem_ipsum", "curly_bracket", "too_few_sentences")

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        kept: list[str] = []
        edits: Counter[str] = Counter()
        for line in map(str.strip, document.text.splitlines()):
            cited, citations = _CITATION.subn("", line)
            flaw = self._flaw(cited, line.split())
            if flaw in self.reasons:
                return drop(flaw, document.text)
            if not flaw:
                kept.append(cited)
                edits["citations"] += citations
            elif line:
                edits[flaw] += 1
        n_sentences = sum(len(sentence_breaks(line)) + 1 for line in kept)
        if n_sentences < self.config.min_sentences:
            return drop("too_few_sentences", document.text, n_sentences)
        return keep("\n".join(kept).strip(), n_sentences, {name: n for name, n in sorted(edits.items()) if n})

    def _flaw(self, line: str, found: list[str]) -> str:
        """The first rule that a line without its citation marks breaks; `found`: its words with them."""
        limit, lower = self.config, line.lower()
        if any(len(word) > limit.max_word_chars for word in found):
            return "long_word"
        if not line.endswith(_END_MARKS) or line.endswith("..."):
            return "no_end_mark"
        if len(found) < limit.min_words_per_line:
            return "few_words"
        if "lorem ipsum" in lower:
            return "lorem_ipsum"
        if "javascript" in lower:
            return "javascript"
        if limit.curly_brackets and "{" in line:
            return "curly_bracket"
        return "policy" if any(phrase in lower for phrase in _POLICIES) else ""


build = C4
