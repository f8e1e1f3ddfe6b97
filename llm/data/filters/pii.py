"""Pii: mask e-mail addresses, telephone, card and IP numbers; drop documents that are lists of them.

Equations   (1) in docs/data/filters/pii.md
Source      Soldaini et al. 2024 (Dolma), arXiv 2402.00159: 1 to 5 hits mask, more drop; Luhn, ISO/IEC 7812
Cost        O(characters): one regular expression per type, bounded repeats only
Differs     from Dolma: every match is validated (number grammar, Luhn, address class) before it counts
Shapes      none
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,62})\.){1,8}[a-z]{2,24}(?![\w@-])", re.IGNORECASE
)
_CARD = re.compile(r"(?<![\w.-])[3-6]\d{3}(?:[ -]?\d{2,6}){2,4}(?![\w-])")
_IP = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}"  # North America
    r"|\+[2-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,6}"  # international, with its plus
    r")(?![\w-])"
)
_VERSION_BEFORE = re.compile(r"(?:v|ver|version|release|build|section|chapter)\.? ?$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Config:
    """max_hits: with more hits the document is dropped, not masked."""

    max_hits: int = 5


class Pii(Filter):
    """Replaces each hit by a placeholder that names its type."""

    reasons = ("too_much_pii",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        text, counts = mask(document.text)
        hits = sum(counts.values())
        if hits > self.config.max_hits:
            return drop("too_much_pii", document.text, float(hits))
        return keep(text, float(hits), counts)


def mask(text: str) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and the number of hits of each type."""
    counts: Counter[str] = Counter()
    for name, pattern, valid in _TYPES:

        def replace(match: re.Match[str], name: str = name, valid: _Valid = valid) -> str:
            if not valid(match):
                return match.group()
            counts[name] += 1
            return f"<{name.upper()}>"

        text = pattern.sub(replace, text)
    return text, dict(sorted(counts.items()))


def luhn(number: str) -> bool:
    """Whether the check digit is right: double every second digit from the right, sum digits, mod 10 (1)."""
    digits = [int(digit) for digit in reversed(number)]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return total % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match.group())
    return 13 <= len(digits) <= 19 and luhn(digits)


def _is_public_ip(match: re.Match[str]) -> bool:
    """A global IPv4 address that nothing announces as a version or section number."""
    if _VERSION_BEFORE.search(match.string[max(0, match.start() - 10) : match.start()]):
        return False
    try:
        return ipaddress.ip_address(match.group()).is_global
    except ValueError:
        return False


def _is_phone(match: re.Match[str]) -> bool:
    """Seven to fifteen digits after the plus (ITU-T E.164); ten or eleven in North America by the pattern."""
    return 8 <= len(re.sub(r"\D", "", match.group())) <= 15


def _always(match: re.Match[str]) -> bool:
    return bool(match.group())


_Valid = Callable[[re.Match[str]], bool]

# Longest numbers first: a card number holds what looks like a telephone number.
_TYPES: tuple[tuple[str, re.Pattern[str], _Valid], ...] = (
    ("email", _EMAIL, _always),
    ("card", _CARD, _is_card),
    ("ip", _IP, _is_public_ip),
    ("phone", _PHONE, _is_phone),
)

build = Pii
