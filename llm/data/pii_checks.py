"""pii_checks: what tells a number or a string that identifies somebody from one that only looks like it.

Equations   (1)-(4) in docs/data/pii_checks.md; comments below carry the same numbers
Source      ISO/IEC 7812 (cards), ISO 13616 (IBAN), GB 11643-1999 (resident ids), NANP and ITU-T E.164 (telephones),
            Social Security Administration (numbers never assigned), RFC 7519 (JSON web tokens)
Cost        O(characters of the candidate)
Differs     nothing
Shapes      none
"""

import base64
import binascii
import datetime
import ipaddress
import json
import math
import re
from collections import Counter

# Number of characters of an IBAN by country.
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 "
    "FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LI21 LT20 LU20 LV21 "
    "MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TN24 "
    "TR26 UA29 VA22 VG24 XK20"
)
_LENGTH = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()}
# First digits of card numbers: lowest, highest, allowed lengths.
_ISSUERS = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14,)),  # Diners Club
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("3528", "3589", (16, 17, 18, 19)),  # JCB
    ("6011", "6011", (16, 17, 18, 19)),  # Discover
    ("644", "659", (16, 17, 18, 19)),
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
)
_PROVINCE_RANGES = ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71), (81, 83))
_PROVINCES = tuple(str(number) for a, b in _PROVINCE_RANGES for number in range(a, b + 1))
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_NO_SECRET = re.compile(
    r"example|sample|your|xxxx|changeme|change_me|placeholder|dummy|secret|password|insert|replace|[<>{}$]|\.\.\.",
    re.IGNORECASE,
)


def luhn(number: str) -> bool:
    """Whether the check digit is right: double every second digit from the right, sum digits, mod 10 (1)."""
    digits = [int(digit) for digit in reversed(number)]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return total % 10 == 0


def is_card(number: str) -> bool:
    """A number of an issuer's range and length, with the right check digit."""
    known = any(
        low <= number[: len(low)] <= high and len(number) in lengths for low, high, lengths in _ISSUERS
    )
    return known and luhn(number)


def iban_length(text: str) -> int:
    """Characters an IBAN that begins like this must have; 0 for a country without IBANs."""
    return _LENGTH.get(text[:2], 0)


def is_iban(text: str) -> bool:
    """Four characters to the end, letters as 10 to 35: the number must be 1 modulo 97 (2)."""
    if len(text) != iban_length(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def is_resident_id(text: str) -> bool:
    """A Chinese resident identity number: province, date of birth, weighted check character (3)."""
    if text[:2] not in _PROVINCES:
        return False
    try:
        datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text[:17], strict=True))
    return "10X98765432"[total % 11] == text[17].upper()


def is_ssn(text: str) -> bool:
    """`AAA-GG-SSSS` with an area, a group and a serial number that may be assigned."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_global_ip(text: str) -> bool:
    """An address of either version that is routed on the internet: not private, local or reserved."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def is_american_phone(digits: str) -> bool:
    """Ten digits of the North American plan; neither area nor exchange code may be a service code (411, 911)."""
    area, exchange = digits[-10:-7], digits[-7:-4]
    return area[1:] != "11" and exchange[1:] != "11"


def is_international_phone(digits: str) -> bool:
    """Eight to fifteen digits (E.164), not a round number such as +30 000 000."""
    return 8 <= len(digits) <= 15 and digits[3:].strip("0") != ""


def entropy(text: str) -> float:
    """Bits for each character, under the text's own frequencies (4)."""
    return sum(n / len(text) * math.log2(len(text) / n) for n in Counter(text).values())


def is_random(text: str, min_bits: float = 3.0) -> bool:
    """Whether a string looks drawn at random: letters and digits, high entropy, no word that says `put yours here`."""
    has_both = re.search(r"[0-9]", text) is not None and re.search(r"[A-Za-z]", text) is not None
    return has_both and entropy(text) >= min_bits and _NO_SECRET.search(text) is None


def is_json_web_token(text: str) -> bool:
    """Whether the first of the three parts is base64 of a JSON object that names an algorithm."""
    head = text.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError):
        return False
    return isinstance(header, dict) and "alg" in header
