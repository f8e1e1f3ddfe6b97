"""Precision and recall of every sort on generated text, and expressions that no text can make slow.

For each sort 200 texts hold one true hit, and 200 hold something that only looks like one: versions, dates, ids,
prices, hashes, and numbers with one thing wrong.
"""

import base64
import ipaddress
import json
import random
import re
import string
import time
from collections.abc import Callable
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from llm.data.filters.pii import find, mask
from llm.data.pii_checks import iban_length, is_card, is_global_ip, is_iban, is_resident_id, is_ssn
from llm.data.pii_types import NAMES, SORTS

Draw = random.Random
DIGITS, UPPER = string.digits, string.ascii_uppercase
ALNUM = string.ascii_letters + DIGITS
AROUND = [
    "{}",
    "see {}.",
    "({})",
    "my one is {}, and yours?",
    "A: {}\nB: ok",
    "号码是{}，谢谢",
    "请记下{}谢谢",
    "“{}”",
    "x={}",
]


def some(draw: Draw, alphabet: str, n: int) -> str:
    return "".join(draw.choices(alphabet, k=n))


def luhn_digit(body: str) -> str:
    total = 0
    for i, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if i % 2 == 0 else 1)
        total += doubled - 9 * (doubled > 9)
    return str(-total % 10)


# ---------------------------------------------------------------- true ones


def email(draw: Draw) -> str:
    name = draw.choice(
        ["jane.doe", "j_d", "Bob", "news+tag", "o-neil", "x", "josé", "a1.b2.c3", some(draw, ALNUM, 20)]
    )
    host = draw.choice(["mail", "a", "uni-x", some(draw, "abcdef", 12)])
    return f"{name}@{host}.{draw.choice(['com', 'org', 'co.uk', 'edu.cn', 'museum', 'x.y.de'])}"


def card(draw: Draw) -> str:
    start, length = draw.choice(
        [("4", 16), ("51", 16), ("2345", 16), ("37", 15), ("36", 14), ("6011", 16), ("62", 19)]
    )
    body = start + some(draw, DIGITS, length - 1 - len(start))
    number = body + luhn_digit(body)
    if length == 15:
        return draw.choice([number, f"{number[:4]} {number[4:10]} {number[10:]}"])
    gap = draw.choice(["", " ", "-"]) if length == 16 else ""
    return gap.join(number[i : i + 4] for i in range(0, length, 4))


def iban(draw: Draw) -> str:
    country = draw.choice(["DE", "GB", "FR", "NL", "NO", "MT", "PL", "CH"])
    body = some(draw, UPPER if country in ("GB", "NL") else DIGITS, 4) + some(
        draw, DIGITS, iban_length(country) - 8
    )
    rest = int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    text = f"{country}{98 - rest:02}{body}"
    return draw.choice([text, " ".join(text[i : i + 4] for i in range(0, len(text), 4))])


def resident_id(draw: Draw, month: int | None = None) -> str:
    month = month or draw.randint(1, 12)
    birth = f"{draw.randint(1930, 2015)}{month:02}{draw.randint(1, 28):02}"
    body = draw.choice(["110105", "310101", "440300", "653101"]) + birth + some(draw, DIGITS, 3)
    total = sum(2 ** (17 - i) * int(digit) for i, digit in enumerate(body))  # the weights are 2^(17-i) mod 11
    return body + "10X98765432"[total % 11]


def ssn(draw: Draw) -> str:
    return f"{draw.choice([1, 2, 5, 7])}{draw.randint(1, 65):02}-{draw.randint(1, 99):02}-{draw.randint(1, 9999):04}"


def ip(draw: Draw) -> str:
    while True:
        if draw.random() < 0.5:
            text = ".".join(str(draw.randint(1, 254)) for _ in range(4))
        else:
            groups = [f"{draw.randint(0, 65535):x}" for _ in range(8)]
            groups[0] = draw.choice(["2a00", "2606", "2400"])
            text = str(ipaddress.IPv6Address(":".join(groups)))
            if draw.random() < 0.5:
                text = ":".join(groups[:3]) + "::" + ":".join(groups[:2])
        if ipaddress.ip_address(text).is_global:
            return text


def phone(draw: Draw) -> str:
    area, exchange = (
        f"{draw.randint(2, 9)}{draw.choice('023456789')}{draw.choice(DIGITS)}" for _ in range(2)
    )
    local, mobile = some(draw, DIGITS, 4), f"1{draw.choice('3456789')}{some(draw, DIGITS, 1)}"
    return draw.choice(
        [
            f"({area}) {exchange}-{local}",
            f"{area}-{exchange}-{local}",
            f"+1 {area} {exchange} {local}",
            f"1-{area}-{exchange}-{local}",
            f"{area}.{exchange}.{local}",
            f"+44 20 7946 {local}",
            f"+49 (0) 30 12{local}",
            f"+33 1 {' '.join(some(draw, '23456789', 2) for _ in range(4))}",
            f"+8613{some(draw, '123456789', 9)}",
            f"{mobile}{some(draw, DIGITS, 8)}",
            f"{mobile} {some(draw, DIGITS, 4)} {local}",
            f"+86 {mobile}-{some(draw, DIGITS, 4)}-{local}",
            f"010-{draw.randint(2, 8)}{some(draw, DIGITS, 7)}",
            f"0571-8{some(draw, DIGITS, 7)}",
            f"(0755) 2{some(draw, DIGITS, 7)}",
        ]
    )


def api_key(draw: Draw) -> str:
    token = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).decode().rstrip("=")
    claims = (
        base64.urlsafe_b64encode(json.dumps({"sub": some(draw, DIGITS, 9)}).encode()).decode().rstrip("=")
    )
    return draw.choice(
        [
            "AKIA" + some(draw, UPPER + "234567", 16),
            draw.choice(["ghp_", "gho_", "ghs_"]) + some(draw, ALNUM, 36),
            f"github_pat_{some(draw, ALNUM, 22)}_{some(draw, ALNUM, 59)}",
            f"xoxb-{some(draw, DIGITS, 12)}-{some(draw, ALNUM, 24)}",
            "sk-" + some(draw, ALNUM, 48),
            "sk-proj-" + some(draw, ALNUM + "_", 60) + "A1",
            "AIza" + some(draw, ALNUM, 35),
            f"{token}.{claims}.{some(draw, ALNUM + '-_', 42)}Z",
        ]
    )


def private_key(draw: Draw) -> str:
    sort = draw.choice(["RSA ", "EC ", "OPENSSH ", "ENCRYPTED ", ""])
    head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n" if sort == "RSA " else ""
    lines = "\n".join(some(draw, ALNUM + "+/", 64) for _ in range(draw.randint(3, 25)))
    return f"-----BEGIN {sort}PRIVATE KEY-----\n{head}{lines}==\n-----END {sort}PRIVATE KEY-----"


TRUE: dict[str, Callable[[Draw], str]] = {
    name: maker
    for name, maker in globals().items()
    if name in ("email", "card", "iban", "resident_id", "ssn", "ip", "phone", "api_key", "private_key")
}

# ---------------------------------------------------------------- false ones


def anything(draw: Draw) -> str:
    """What any of the expressions might stumble over."""
    d = lambda n: some(draw, DIGITS, n)  # noqa: E731
    hexa = lambda n: some(draw, "0123456789abcdef", n)  # noqa: E731
    year, month, day = draw.randint(1900, 2030), draw.randint(1, 12), draw.randint(1, 28)
    return draw.choice(
        [
            f"v{d(1)}.{d(1)}.{d(2)}.{d(1)}",
            f"version 10.0.{draw.randint(1, 255)}.1",
            f"Chrome/98.0.{draw.randint(1, 255)}.102",
            f"{year}-{month:02}-{day:02}",
            f"{day:02}.{month:02}.{year}",
            f"{day:02}-{month:02}-{year}",
            f"{year}-{month:02}-{day:02}T10:{day:02}:00.{d(6)}Z",
            f"17{d(8)}",
            f"17{d(11)}",
            f"A-{year}{month:02}{day:02}-{d(6)}",
            f"#{d(9)}",
            hexa(32),
            hexa(40),
            hexa(64),
            f"{hexa(8)}-{hexa(4)}-4{hexa(3)}-a{hexa(3)}-{hexa(12)}",
            ":".join(hexa(2) for _ in range(6)),
            f"${draw.randint(1, 999)},{d(3)},{d(3)}.{d(2)}",
            f"¥1{draw.choice('3578')}{d(9)}",
            f"{draw.randint(1, 999)} {d(3)} {d(3)} {d(3)}",
            f"978-3-16-{d(6)}-{d(1)}",
            f"{draw.randint(1, 89)}.{d(6)}, {draw.randint(1, 89)}.{d(6)}",
            f"3.{d(18)}",
            f"IMG_{year}{month:02}{day:02}_{d(6)}.jpg",
            f"1Z999AA1{d(10)}",
            f"std::map<a{d(1)}::b>",
            f"{draw.randint(1, 23)}:{day:02}:{day:02}",
            f"+{draw.randint(1, 99)} points, -{draw.randint(1, 99)} %",
            f"{draw.randint(1900, 1999)}-{draw.randint(1900, 1999)}",
            f"@user{d(3)} said: 10/10",
            f"room {d(3)}, table {d(2)}-{d(2)}",
            d(16),  # one in forty is by chance a card number
        ]
    )


def no_email(draw: Draw) -> str:
    word = some(draw, string.ascii_lowercase, 6)
    return draw.choice(
        [
            f"@{word}",
            f"{word}@localhost",
            f"icon_{word}@2x.png",
            f"{word}@{draw.randint(1, 9)}.{draw.randint(0, 20)}.1",
            f"git@github.com:{word}/{word}.git",
            f"{word}@ {word}.com",
            f"{word} @ {word}.com",
            f"{word}@@{word}.com",
            f"{word}@.com",
            f"{word}..@{word}.com",
            f"{word}@{word}.com@{word}",
            f"{word} at {word} dot com",
        ]
    )


def no_card(draw: Draw) -> str:
    number = re.sub(r"\D", "", card(draw))
    wrong = number[:-1] + str((int(number[-1]) + draw.randint(1, 9)) % 10)
    body = draw.choice(["9", "1", "7", "50", "66"]) + some(draw, DIGITS, 13)
    return draw.choice(
        [
            wrong,
            " ".join(wrong[i : i + 4] for i in range(0, len(wrong), 4)),
            body + luhn_digit(body),  # of no issuer
            number + some(draw, DIGITS, 5),
            f"0.{number}",
            f"{number}x",
        ]
    )


def no_iban(draw: Draw) -> str:
    text = iban(draw).replace(" ", "")
    wrong = text[:-1] + str((int(text[-1]) + draw.randint(1, 9)) % 10)
    return draw.choice(
        [
            wrong,
            " ".join(wrong[i : i + 4] for i in range(0, len(wrong), 4)),
            "ZZ" + text[2:],
            text[:-1],
            text + "7",
            "X" + text,
        ]
    )


def no_resident_id(draw: Draw) -> str:
    good = resident_id(draw)
    wrong = good[:17] + draw.choice([c for c in "0123456789X" if c != good[17]])
    return draw.choice(
        [wrong, "00" + good[2:], resident_id(draw, month=13), good + "1", "1" + good, good[:6] + good[8:17]]
    )


def no_ssn(draw: Draw) -> str:
    area, group, serial = ssn(draw).split("-")
    return draw.choice(
        [
            f"000-{group}-{serial}",
            f"666-{group}-{serial}",
            f"9{area[1:]}-{group}-{serial}",
            f"{area}-00-{serial}",
            f"{area}-{group}-0000",
            f"{area}-{group}-{serial}1",
            f"{area}{group}{serial}",
            f"{group}-{area}-{serial}",
            f"{area}-{group}-{serial}-7",
        ]
    )


def no_ip(draw: Draw) -> str:
    n = draw.randint(1, 250)
    return draw.choice(
        [
            f"192.168.{n}.1",
            f"10.{n}.0.1",
            f"127.0.0.{n}",
            f"172.16.{n}.9",
            f"169.254.1.{n}",
            f"192.0.2.{n}",
            f"{n + 300}.1.1.1",
            f"1.2.3.4.{n}",
            f"release 8.{n}.4.4",
            f"section 4.{n}.2.1",
            f"fe80::{n:x}:1",
            f"2001:db8::{n:x}",
            f"::{n:x}",
            f"20:{n % 60:02}:30",
            f"2abc:{n}",
            f"face::cafe{n}",
            f"Boost/1.{n}.0.2",
        ]
    )


def no_phone(draw: Draw) -> str:
    d = lambda n: some(draw, DIGITS, n)  # noqa: E731
    return draw.choice(
        [
            f"{draw.randint(200, 999)}-{d(4)}",
            f"1{d(2)}-{d(3)}-{d(4)}",
            f"{draw.randint(2, 9)}11-555-{d(4)}",
            f"{draw.randint(200, 999)}-{draw.randint(2, 9)}11-{d(4)}",
            f"{draw.randint(200, 999)}-{d(3)}-{d(5)}",
            f"12{d(9)}",
            f"1{draw.choice('3578')}{d(8)}",
            f"1{draw.choice('3578')}{d(10)}",
            f"1{draw.choice('3578')}{d(9)}.5",
            f"+{draw.randint(20, 99)} 000 000",
            f"+{draw.randint(20, 99)}.5",
            f"010-{d(5)}",
            f"010-1{d(7)}",
            f"0{draw.choice('12')}{d(2)}-{d(4)}",
            f"{draw.randint(2, 9)}{d(9)}",
        ]
    )


def no_api_key(draw: Draw) -> str:
    word = some(draw, "abcdefgh", 6)
    return draw.choice(
        [
            f"sk-{word}-container-id-{word}-toggleable",
            "AKIA" + some(draw, UPPER, 9),
            "AKIA" + "A" * 16,
            "ghp_" + "x" * 36,
            "ghp_your_token_goes_right_here_1234567890",
            'api_key = "your-api-key-goes-here-1"',
            f'api_key = os.environ["{word.upper()}_KEY"]',
            "password: 'correct horse battery staple 1'",
            f'token = "{word}"',
            f'checksum = "{some(draw, "0123456789abcdef", 40)}"',
            f'id: "{some(draw, "0123456789abcdef", 32)}"',
            f"eyJ{word}zzzzzz.{word}.{word}{word}",
            f'secret = "{"ab" * 12}1"',
            f'url = "https://example.org/{word}/1234567"',
            f"AIza{word}",
            f"task-{some(draw, ALNUM, 30)}",
        ]
    )


def no_private_key(draw: Draw) -> str:
    body = some(draw, ALNUM, 64)
    return draw.choice(
        [
            f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----",
            f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----",
            "BEGIN PRIVATE KEY",
            "a private key begins with -----BEGIN and so on",
            f"-----BEGIN MESSAGE-----\n{body}",
        ]
    )


FALSE: dict[str, Callable[[Draw], str]] = {name: globals()[f"no_{name}"] for name in TRUE}


def test_every_sort_has_its_generators() -> None:
    assert set(TRUE) == set(FALSE) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_precision_and_recall(name: str) -> None:
    draw = Draw(f"pii {name}")
    found = missed = false = 0
    for i in range(200):
        before, after = draw.choice(AROUND).split("{}")
        secret = TRUE[name](draw)
        hit = (len(before), len(before) + len(secret), name) in find(before + secret + after)
        found, missed = found + hit, missed + (not hit)
        lookalike = (anything if i % 2 else FALSE[name])(draw)
        false += any(sort == name for _, _, sort in find(f"{before}{lookalike}{after}"))
    assert found / (found + missed) >= 0.98
    assert found / (found + false) >= 0.98


@pytest.mark.parametrize(
    "line",
    [
        "api_key = '{}'",
        'API-KEY: "{}",',
        '"secret_key": "{}"',
        "auth_token => '{}'",
        "export DB_PASSWORD='{}'",
    ],
)
def test_a_value_called_a_key_is_masked_and_nothing_beside_it(line: str) -> None:
    assert mask(line.format("Zq8Xw2Lk9Pv4Rt7Y"))[0] == line.format("<API_KEY>")


@pytest.mark.parametrize(
    ("test", "good", "bad"),
    [
        (is_card, "4111111111111111", "4111111111111112"),
        (is_card, "378282246310005", "378282246310006"),
        (is_card, "4222222222222", "42222222222222"),  # no Visa number has 14 digits
        (is_iban, "GB29NWBK60161331926819", "GB29NWBK60161331926818"),
        (is_iban, "DE89370400440532013000", "DE8937040044053201300"),
        (is_resident_id, "11010519491231002X", "110105194912310021"),
        (is_resident_id, "440524188001010014", "440524188013010014"),
        (is_ssn, "219-09-9999", "219-00-9999"),
        (is_global_ip, "8.8.8.8", "10.8.8.8"),
        (is_global_ip, "2001:4860:4860::8888", "2001:db8::8888"),
    ],
)
def test_published_examples(test: Callable[[str], bool], good: str, bad: str) -> None:
    assert test(good)
    assert not test(bad)


def repeats_of(tree: Any) -> list[int]:
    """The upper bounds of all repeats of a parsed expression."""
    found = []
    for code, argument in tree:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            found.append(int(argument[1]))
            found += repeats_of(argument[2])
        elif code is codes.BRANCH:
            found += [bound for branch in argument[1] for bound in repeats_of(branch)]
        elif isinstance(argument, tuple):
            found += [
                bound
                for part in argument
                if isinstance(part, parser.SubPattern)
                for bound in repeats_of(part)
            ]
    return found


def test_every_repeat_is_bounded() -> None:
    for sort in SORTS:
        for pattern in filter(None, (sort.pattern, sort.look)):
            bounds = repeats_of(parser.parse(pattern.pattern, pattern.flags & re.IGNORECASE))
            assert bounds or sort.name == "email"
            assert max(bounds) < int(codes.MAXREPEAT)
    assert repeats_of(parser.parse(r"(?:a|(b*))c")) == [int(codes.MAXREPEAT)]


@pytest.mark.parametrize(
    "unit",
    ["a.", "a", "1", "1.", "1 ", "1-", "4111 ", "+44 ", "+4", "(0", "a@", "a@a.", "2a00:", "2:", ":", "AB12",
     "AB12 CD34 ", "sk-", "eyJa", "eyJaaaaaaaaaa.", "xoxb-1", "='", "=\"aaaaaaaaaaaaaaaa", "-----BEGIN ",
     "-----BEGIN PRIVATE KEY-----", "你1"],
)  # fmt: skip
def test_a_hundred_thousand_characters_of_bait_cost_little(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    start = time.process_time()
    find(text)
    assert time.process_time() - start < 5


def test_overlaps_go_to_the_first_sort_then_to_the_longest() -> None:
    assert find("4111 1111 1111 1111") == [(0, 19, "card")]
    assert find("https://x:ghp_" + "a1B2c3D4e5F6" * 3 + "@github.com")[0][2] == "api_key"
    assert find("+86 13800138000") == [(0, 15, "phone")]
