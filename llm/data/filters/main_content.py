"""MainContent: keep the article of a page; menus, banners, side columns and footers go.

Equations   (1) in docs/data/filters/main_content.md
Source      Resiliparse (Bevendorff et al. 2018, Elastic ChatNoir, ECIR): rules over tag names, classes and
            the position of an element; the extractor of DCLM (Li et al. 2024, arXiv 2406.11794)
Cost        O(bytes) for sane nesting; deeper documents are dropped unparsed
Differs     from Resiliparse: it drops every bullet list; here a list stays unless most of it are links
Shapes      none
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import DOMNode, HTMLTree

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.funnel import n_bytes
from llm.data.markup import BOILERPLATE, is_markup, oversized

_SKIPPED = sorted(BOILERPLATE - {"header"})  # the header of an article holds its title


@dataclass(frozen=True, kw_only=True)
class Config:
    """min_tags: known HTML tags from which a text counts as markup. max_bytes, max_depth: else not parsed.

    min_chars: how much must be left. max_link_frac: share of a list's characters inside links.
    """

    min_tags: int = 3
    max_bytes: int = 2_000_000
    max_depth: int = 100
    min_chars: int = 25
    max_link_frac: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_link_frac <= 1.0:
            raise ValueError(f"max_link_frac ({self.max_link_frac}) must lie in [0, 1]")


class MainContent(Filter):
    """Extracts the main content where there are tags."""

    reasons = ("oversized_markup", "no_main_content")

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        text = document.text
        if not is_markup(text, self.config.min_tags):
            return keep(text)
        if oversized(text, self.config.max_bytes, self.config.max_depth):
            return drop("oversized_markup", text, n_bytes(text))
        content = main_content(text, self.config.max_link_frac)
        if len(content) < self.config.min_chars:
            return drop("no_main_content", text, len(content))
        return keep(content, len(content), {"extracted": 1})


def main_content(html: str, max_link_frac: float = 0.5) -> str:
    """The text of the main part of a page; blocks end lines, `pre` stays verbatim."""
    tree = HTMLTree.parse(html.encode("utf-8", "replace").decode("utf-8"))  # half surrogates are no text
    if tree.body is None:
        return ""
    for bullets, link_chars in list(_bullet_lists(tree.body)):
        if link_chars <= max_link_frac * len(bullets.text or ""):  # (1)
            _number(tree, bullets)
    text: str = extract_plain_text(
        tree, main_content=True, list_bullets=False, alt_texts=False, comments=False, skip_elements=_SKIPPED
    )
    return text.strip("\n")


def _bullet_lists(root: DOMNode) -> Iterator[tuple[DOMNode, int]]:
    """Every `ul` below `root`, inner ones first, and how many of its characters stand inside links."""
    stack = [(root, False)]  # (node, whether its children are done)
    link_chars = [0]  # of the lists that are open
    while stack:
        node, done = stack.pop()
        if done:
            inside = link_chars.pop()
            link_chars[-1] += inside
            yield node, inside
            continue
        if node.tag == "a":
            link_chars[-1] += len(node.text or "")
        elif node.tag == "ul":
            link_chars.append(0)
            stack.append((node, True))
        child = node.first_child
        while child is not None:
            stack.append((child, False))
            child = child.next_sibling


def _number(tree: HTMLTree, bullets: Any) -> None:  # Any: the library types every neighbour as optional
    """Turn an `ul` into an `ol`: the extractor takes the first for a menu whatever it holds."""
    numbers: Any = tree.create_element("ol")
    bullets.parent.replace_child(numbers, bullets)
    while (item := bullets.first_child) is not None:
        numbers.append_child(item)


build = MainContent
