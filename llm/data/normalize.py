"""normalize: one spelling for what looks the same; no control characters, no half-decoded bytes.

Applied until nothing changes, so that normalize(normalize(x)) = normalize(x) holds by construction: each
pass after the first can only remove or merge characters. Text that is clean already passes byte for byte.
"""

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep

TOO_BROKEN = "broken_encoding"

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_BLANK_LINES = re.compile("\n{4,}")
_SURROGATES = re.compile("[\ud800-\udfff]")

_EMOJI = "\u2600-\u27bf\u2b00-\u2bff\U0001f1e6-\U0001faff"
_ZERO_WIDTH = re.compile(  # a joiner between two emoji builds one picture and stays
    f"[\u200b\u200c\ufeff]|(?<![{_EMOJI}\ufe0f])\u200d|\u200d(?![{_EMOJI}])"
)

# What the bytes 80..BF of UTF-8 became when read as Latin-1 or as Windows-1252.
_AS_CP1252 = {bytes([byte]).decode("cp1252", "ignore"): byte for byte in range(0x80, 0xC0)}
_BYTE = {chr(byte): byte for byte in range(0x80, 0x100)} | {c: b for c, b in _AS_CP1252.items() if c}
_TAIL = "[" + "".join(re.escape(c) for c, b in _BYTE.items() if b < 0xC0) + "]"
_MOJIBAKE = re.compile(f"[\u00c2\u00c3]{_TAIL}|\u00e2[\u0080\u0082\u20ac\u201a]{_TAIL}|\u00f0{_TAIL}{{3}}")


Repair = Literal["none", "own", "ftfy"]


@dataclass(frozen=True, kw_only=True)
class NormalizeParams:
    """mojibake: who undoes UTF-8 read as Latin-1. max_broken_frac: share of U+FFFD above which to drop."""

    mojibake: Repair = "own"
    max_broken_frac: float = 0.001

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_broken_frac <= 1.0:
            raise ValueError(f"max_broken_frac ({self.max_broken_frac}) must lie in [0, 1]")


class Normalize(Filter):
    """Normalises every text; drops one that holds too many undecodable characters."""

    reasons = (TOO_BROKEN,)

    def __init__(self, params: NormalizeParams) -> None:
        self.params = params

    def judge(self, document: Document) -> Verdict:
        text = normalize(document.text, mojibake=self.params.mojibake)
        broken = text.count("\ufffd") / max(1, len(text))
        if broken > self.params.max_broken_frac:
            return drop(TOO_BROKEN, text, broken)
        return keep(text, broken, {"normalized": 1} if text != document.text else None)


def normalize(text: str, *, mojibake: Repair = "own") -> str:
    """NFC, `\\n` line ends, no controls, no zero-width characters, at most two blank lines in a row."""
    while (changed := _once(text, mojibake)) != text:
        text = changed
    return text


def _once(text: str, mojibake: Repair) -> str:
    if not text.isascii():
        text = _REPAIRS[mojibake](text)  # before controls go: the bytes 80..9F may stand there as such
        text = _ZERO_WIDTH.sub("", _SURROGATES.sub("\ufffd", text))
        text = unicodedata.normalize("NFC", text)
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    return _BLANK_LINES.sub("\n\n\n", text)


def _repair_nothing(text: str) -> str:
    return text


def _repair_by_rule(text: str) -> str:
    return _MOJIBAKE.sub(_decoded, text)


def _decoded(match: re.Match[str]) -> str:
    """The character whose UTF-8 bytes were read one by one, or the match itself when they are none."""
    try:
        return bytes(_BYTE[character] for character in match.group()).decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


def _repair_by_ftfy(text: str) -> str:
    """Only what was decoded wrongly: quotes, ligatures, widths and entities are as the author set them."""
    return _ftfy()(text)


@functools.cache
def _ftfy() -> Callable[[str], str]:
    from ftfy import TextFixerConfig, fix_text

    config = TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=True,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    return functools.partial(fix_text, config=config)


_REPAIRS: dict[Repair, Callable[[str], str]] = {
    "none": _repair_nothing,
    "own": _repair_by_rule,
    "ftfy": _repair_by_ftfy,
}
