"""pii_types: the sorts of personal data that are looked for: a pattern for candidates, a check for each.

Equations   none; the table is in docs/data/pii_types.md
Source      Dolma (arXiv 2402.00159) and FineWeb (arXiv 2406.17557) for what to mask; formats of keys as their issuers
            publish them
Cost        one pass of a regular expression for each sort; every repeat is
            bounded, and no two of them compete for a character
Differs     from both: a check after every match
Shapes      none
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llm.data import pii_checks as check
from llm.data.words import NO_SPACES

Span = tuple[int, int]

# Borders: no letter or digit beside it, but a Chinese character may stand there, where `\b` sees no border.
_START = rf"(?<![^\W{NO_SPACES}])(?<![0-9]\.)(?<![+-])"
_END = rf"(?![^\W{NO_SPACES}])(?!-[^\W{NO_SPACES}])"
_END_NUMBER = rf"{_END}(?!\.[0-9])"
_AT_END = re.compile(_END)
_NAME = "A-Za-z0-9_\u00c0-\u024f\u0370-\u052f"  # Latin, Greek and Cyrillic letters

_LONG_NUMBER = re.compile(r"[0-9](?:[ .()-]{0,3}[0-9A-Z]){6}")
_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "json", "html", "tgz", "gz")
_VERSION_BEFORE = re.compile(r"(?:(?:v|ver|version|release|build|section|chapter)\.? ?|\w/)$", re.IGNORECASE)
_SECRET_NAME = re.compile(
    r"(?:api[_-]?key|(?:access|auth|secret|private|client|api)[_-]?(?:key|token|secret)|secret|token|passw(?:or)?d|pwd)"
    r"[\"']?\s{0,3}$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Sort:
    """name: of the placeholder. span: the part of a match that is personal, None if it only looks like it.

    triggers, look: strings of which one must occur in the text, and a cheap expression that must be found, to spare
    the text the expensive one.
    """

    name: str
    pattern: re.Pattern[str]
    span: Callable[[re.Match[str]], Span | None]
    triggers: tuple[str, ...] = ()
    look: re.Pattern[str] | None = None

    def find(self, text: str) -> Iterator[Span]:
        """Spans of this sort, in order."""
        for match in self.pattern.finditer(text):
            span = self.span(match)
            if span is not None:
                yield span


def _if(test: Callable[[str], bool]) -> Callable[[re.Match[str]], Span | None]:
    """The whole match where its text passes."""
    return lambda match: match.span() if test(match.group()) else None


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def _email(match: re.Match[str]) -> Span | None:
    name, _, domain = match.group().rpartition("@")
    is_file = domain.rpartition(".")[2].lower() in _FILES  # icon@2x.png
    return None if ".." in name or name.endswith(".") or is_file else match.span()


def _iban(match: re.Match[str]) -> Span | None:
    """The candidate may run on into the next word: the country says where it ends."""
    places = [match.start() + i for i, character in enumerate(match.group()) if character != " "]
    length = check.iban_length(match.group())
    if not 0 < length <= len(places):
        return None
    start, end = match.start(), places[length - 1] + 1
    ends = _AT_END.match(match.string, end) is not None
    return (start, end) if ends and check.is_iban(match.string[start:end].replace(" ", "")) else None


def _ip4(match: re.Match[str]) -> Span | None:
    """A global address that nothing announces as a version or section number."""
    before = match.string[max(0, match.start() - 10) : match.start()]
    return None if _VERSION_BEFORE.search(before) else _if(check.is_global_ip)(match)


def _landline(match: re.Match[str]) -> Span | None:
    """Beijing and the cities 02x have eight digits."""
    short_code = match["area"][1] in "12"
    return match.span() if not short_code or len(match["local"]) == 8 else None


def _no_price(match: re.Match[str]) -> Span | None:
    return None if match.string[: match.start()][-1:] in tuple("$¥￥€£#№") else match.span()


def _assigned(match: re.Match[str]) -> Span | None:
    """The value, where what it is assigned to is called a key, token or password."""
    before = match.string[max(0, match.start() - 40) : match.start()]
    random = check.is_random(match["value"], min_bits=3.3)
    return match.span("value") if random and _SECRET_NAME.search(before) else None


def _key(match: re.Match[str]) -> Span | None:
    value = match.group()
    if value.startswith(("AKIA", "ASIA")):  # base 32: one in thirty has no digit
        return match.span() if check.entropy(value[4:]) >= 2.5 else None
    return match.span() if check.is_random(value[4:]) else None


# The first wins where two overlap, so long numbers come first: a card number holds what looks like a phone number.
SORTS: tuple[Sort, ...] = (
    Sort(
        name="private_key",
        pattern=re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:[^-]|-(?!----)){0,20000}-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
        span=re.Match.span,
        triggers=("-----BEGIN ",),
    ),
    Sort(
        name="api_key",
        pattern=re.compile(
            rf"{_START}(?:(?:AKIA|ASIA)[A-Z0-9]{{16}}"  # AWS
            r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"  # GitHub
            r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}"  # Slack
            rf"|AIza[A-Za-z0-9_-]{{35}}|sk-[A-Za-z0-9_-]{{20,200}}){_END}"  # Google, OpenAI
        ),
        span=_key,
        triggers=(
            "AKIA",
            "ASIA",
            "ghp_",
            "gho_",
            "ghu_",
            "ghs_",
            "ghr_",
            "github_pat_",
            "xox",
            "AIza",
            "sk-",
        ),
    ),
    Sort(
        name="api_key",
        pattern=re.compile(
            rf"{_START}eyJ[A-Za-z0-9_-]{{10,2000}}\.[A-Za-z0-9_-]{{4,8000}}\.[A-Za-z0-9_-]{{10,1000}}{_END}"
        ),
        span=_if(check.is_json_web_token),
        triggers=("eyJ",),
    ),
    Sort(
        name="api_key",
        pattern=re.compile(r"(?::=|=>|[:=])\s{0,3}([\"'])(?P<value>[A-Za-z0-9+/_=.~!@#%^&*-]{16,200})\1"),
        span=_assigned,
    ),
    Sort(
        name="email",
        pattern=re.compile(
            rf"{_START}(?<!%)[{_NAME}][{_NAME}.+%-]{{0,63}}@(?:[a-z0-9][a-z0-9-]{{0,62}}\.){{1,8}}[a-z]{{2,24}}"
            rf"{_END}(?!@|:[^\s])",  # git@host:path names a folder
            re.IGNORECASE,
        ),
        span=_email,
        triggers=("@",),
    ),
    Sort(
        name="iban",
        pattern=re.compile(rf"{_START}[A-Z]{{2}}[0-9]{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,4}})?"),
        span=_iban,
        look=_LONG_NUMBER,
    ),
    Sort(
        name="resident_id",
        pattern=re.compile(rf"{_START}[1-9][0-9]{{5}}(?:19|20)[0-9]{{9}}[0-9Xx]{_END_NUMBER}"),
        span=_if(check.is_resident_id),
        look=_LONG_NUMBER,
    ),
    Sort(
        name="card",
        pattern=re.compile(
            rf"{_START}(?:[3-6][0-9]{{12,18}}|2[0-9]{{15}}"
            r"|[2-6][0-9]{3}(?P<gap>[ -])[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{1,4}(?:(?P=gap)[0-9]{1,3})?"
            rf"|3[0-9]{{3}}(?P<gap2>[ -])[0-9]{{6}}(?P=gap2)[0-9]{{4,5}}){_END_NUMBER}"
        ),
        span=_if(lambda text: check.is_card(_digits(text))),
        look=_LONG_NUMBER,
    ),
    Sort(
        name="ssn",
        pattern=re.compile(rf"{_START}[0-8][0-9]{{2}}-[0-9]{{2}}-[0-9]{{4}}{_END_NUMBER}"),
        span=_if(check.is_ssn),
        look=_LONG_NUMBER,
    ),
    Sort(
        name="ip",
        pattern=re.compile(rf"{_START}(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}{_END_NUMBER}"),
        span=_ip4,
        look=re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]"),
    ),
    Sort(
        name="ip",
        pattern=re.compile(
            rf"{_START}(?<!:)[23][0-9a-f]{{3}}(?::[0-9a-f]{{0,4}}){{2,7}}{_END}(?!:)", re.IGNORECASE
        ),
        span=_if(check.is_global_ip),
        look=re.compile(r"[23][0-9a-fA-F]{3}:"),
    ),
    Sort(
        name="phone",  # North America
        pattern=re.compile(
            rf"{_START}(?:\+?1[ .-]?)?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[ .-])[2-9][0-9]{{2}}[ .-][0-9]{{4}}"
            rf"{_END_NUMBER}"
        ),
        span=_if(lambda text: check.is_american_phone(_digits(text))),
        look=_LONG_NUMBER,
    ),
    Sort(
        name="phone",  # with the country
        pattern=re.compile(
            rf"{_START}\+[2-9][0-9]{{0,14}}(?:[ .-]?\([0-9]{{1,5}}\)[ .-]?[0-9]{{1,10}}|[ .-][0-9]{{1,10}}){{0,6}}"
            rf"{_END_NUMBER}"
        ),
        span=_if(lambda text: check.is_international_phone(_digits(text))),
        triggers=("+",),
        look=_LONG_NUMBER,
    ),
    Sort(
        name="phone",  # Chinese mobile
        pattern=re.compile(
            rf"{_START}(?:(?:\+|00)?86[ -]?)?1[3-9][0-9](?P<gap>[ -]?)[0-9]{{4}}(?P=gap)[0-9]{{4}}{_END_NUMBER}"
        ),
        span=_no_price,
        look=_LONG_NUMBER,
    ),
    Sort(
        name="phone",  # Chinese landline, with an extension
        pattern=re.compile(
            rf"{_START}(?P<open>\()?(?P<area>0(?:10|2[0-9]|[3-9][0-9]{{2}}))(?(open)\) ?|[ -])"
            rf"(?P<local>[2-9][0-9]{{6,7}})(?:-[0-9]{{1,5}})?{_END_NUMBER}"
        ),
        span=_landline,
        look=_LONG_NUMBER,
    ),
)
NAMES = tuple(dict.fromkeys(sort.name for sort in SORTS))
