"""Html: turn marked-up documents into the text a reader sees; leave ordinary text alone.

Equations   none; the rules are listed in docs/data/filters/html.md
Source      WHATWG HTML parsing (by selectolax, engine Lexbor); boilerplate tags as in trafilatura's defaults
Cost        O(bytes) for sane nesting; deeper documents are dropped unparsed
Differs     no scoring of main content (kind main_content does): whole elements that never hold prose go
Shapes      none
"""

import re
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.funnel import n_bytes
from llm.data.markup import BLOCKS, BOILERPLATE, HIDDEN, is_markup, oversized

_SPACES = re.compile(r"[ \t\r\n\f]+")


@dataclass(frozen=True, kw_only=True)
class Config:
    """min_tags: known HTML tags from which a text counts as markup. max_bytes, max_depth: else not parsed.

    min_text_frac: share of the characters that must remain as text.
    """

    min_tags: int = 3
    max_bytes: int = 2_000_000
    max_depth: int = 500
    min_text_frac: float = 0.02


class Html(Filter):
    """Strips tags where there are tags."""

    reasons = ("oversized_markup", "mostly_markup")

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        text = document.text
        if not is_markup(text, self.config.min_tags):
            return keep(text)
        if oversized(text, self.config.max_bytes, self.config.max_depth):
            return drop("oversized_markup", text, n_bytes(text))
        stripped = to_text(text)
        text_frac = len(stripped) / len(text)
        if text_frac < self.config.min_text_frac:
            return drop("mostly_markup", text, text_frac)
        return keep(stripped, text_frac, {"stripped": 1})


def to_text(html: str) -> str:
    """The visible text of an HTML document; blocks end lines, cells are separated by tabs."""
    out = _Lines()
    root = LexborHTMLParser(html.encode("utf-8", "replace")).root
    stack: list[tuple[LexborNode, bool]] = [(root, False)] if root is not None else []
    while stack:  # (node, whether its children are done): a loop, since pages may nest deeper than Python
        node, done = stack.pop()
        tag = node.tag or ""
        if done:
            out.close(tag)
        elif tag == "-text":
            out.text(node.text_content or "")
        elif tag not in HIDDEN and tag not in BOILERPLATE:
            out.open(tag)
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(list(node.iter(include_text=True))))
    return out.join()


class _Lines:
    """Collects text and line ends the way a browser shows them."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.verbatim = 0  # depth of <pre>

    def open(self, tag: str) -> None:
        if tag in BLOCKS:
            self._end_line()
        if tag in ("td", "th") and not self._at_line_start():
            self.pieces.append(self.pieces.pop().rstrip(" ") + "\t")
        self.verbatim += tag in ("pre", "textarea")

    def close(self, tag: str) -> None:
        self.verbatim -= tag in ("pre", "textarea")
        if tag in BLOCKS:
            self._end_line()

    def text(self, text: str) -> None:
        if not self.verbatim:
            text = _SPACES.sub(" ", text)
            if self._at_line_start() or self.pieces[-1][-1:] in (" ", "\t"):
                text = text.lstrip(" ")
        if text:
            self.pieces.append(text)

    def join(self) -> str:
        return "".join(self.pieces).strip("\n")

    def _at_line_start(self) -> bool:
        return not self.pieces or self.pieces[-1].endswith("\n")

    def _end_line(self) -> None:
        if self.pieces and not self.verbatim:
            self.pieces[-1] = self.pieces[-1].rstrip(" ")
            if not self.pieces[-1]:
                self.pieces.pop()
        if not self._at_line_start():
            self.pieces.append("\n")


build = Html
