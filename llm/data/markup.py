"""markup: which texts are HTML at all, which of those are too large or too deep to parse, and what tags mean.

Shared by the filters that read markup. A text counts as markup by its document type or by enough tags with
known names; ordinary prose with `x < y`, `<3` or one `<b>` does not.
"""

import re

from llm.data.funnel import n_bytes
from llm.data.words import words

HIDDEN = frozenset(words("head script style noscript template svg math iframe object canvas select button"))
BOILERPLATE = frozenset(words("nav footer header aside form"))
BLOCKS = frozenset(
    words(
        "address article blockquote body br caption dd div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 hr "
        "html li main ol p pre section table tbody tfoot thead tr ul"
    )
)
_INLINE = words("a abbr b code em font i img input link meta small span strong sub sup td th title u")
_KNOWN = "|".join(sorted(HIDDEN | BOILERPLATE | BLOCKS | set(_INLINE)))
_TAG = re.compile(rf"</?(?:{_KNOWN})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_DOCTYPE = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)

_ANY_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_NEVER_NEST = frozenset(
    words("p li dd dt td th tr br hr img input link meta option base col wbr area source")
)


def is_markup(text: str, min_tags: int) -> bool:
    """Whether the text starts like a page or holds at least `min_tags` known tags."""
    if "<" not in text:
        return False
    return bool(_DOCTYPE.match(text)) or len(_TAG.findall(text)) >= min_tags


def oversized(text: str, max_bytes: int, max_depth: int) -> bool:
    """Whether parsing would cost too much: its time grows with the bytes and with the depth of the tree."""
    return n_bytes(text) > max_bytes or _depth(text) > max_depth


def _depth(html: str) -> int:
    """Upper bound of how deep elements nest, by counting tags: parsing takes time quadratic in it."""
    depth = deepest = 0
    for closing, name in _ANY_TAG.findall(html):
        if name.lower() not in _NEVER_NEST:
            depth = max(0, depth - 1) if closing else depth + 1
            deepest = max(deepest, depth)
    return deepest
