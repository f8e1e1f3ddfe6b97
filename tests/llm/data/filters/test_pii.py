"""Private data: what is masked, and what only looks like it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.document import Document
from llm.data.filters.base import Verdict
from llm.data.filters.pii import Config, Pii, mask
from llm.data.pii_checks import luhn


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+news@mail.example.co.uk.", "write to <EMAIL>."),
        ("(A@B.org)", "(<EMAIL>)"),
        ("邮箱test@example.com谢谢", "邮箱<EMAIL>谢谢"),
        ("邮箱：test@example.com，谢谢", "邮箱：<EMAIL>，谢谢"),
        ("call (808) 782-1557 now", "call <PHONE> now"),
        ("808-782-1557, 808.782.1557", "<PHONE>, <PHONE>"),
        ("+1 808 782 1557", "<PHONE>"),
        ("+44 20 7946 0958", "<PHONE>"),
        ("+86 138 0013 8000", "<PHONE>"),
        ("card 4111 1111 1111 1111!", "card <CARD>!"),
        ("4111-1111-1111-1111", "<CARD>"),
        ("378282246310005", "<CARD>"),
        ("host 8.8.8.8 is up", "host <IP> is up"),
        ("8.8.8.8.", "<IP>."),
    ],
)
def test_hits(text: str, masked: str) -> None:
    assert mask(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "a@b",
        "@handle and #tag",
        "user@localhost",
        "4111 1111 1111 1112",  # Luhn fails
        "9111 1111 1111 1111",  # no card begins with 9
        "on 2024-05-17 at 10:30",
        "version 1.2.3.4 and v8.8.8.8 and section 8.8.4.4",
        "192.168.0.1 and 127.0.0.1 and 10.0.0.7",  # not public
        "999.1.1.1 and 1.2.3.4.5",
        "782-1557",
        "123-456-7890",  # no area code begins with 1
        "8087821557",
        "room 101, 3.14159265, 1,000,000,000",
        "1914-1918 and 1939-1945",
        "+5 points, +12 345",
    ],
)
def test_near_misses(text: str) -> None:
    assert mask(text) == (text, {})


def test_hits_are_counted_by_type() -> None:
    text = "x@y.org z@y.org 808-782-1557 8.8.4.4"
    assert mask(text) == ("<EMAIL> <EMAIL> <PHONE> <IP>", {"email": 2, "ip": 1, "phone": 1})


def judge(text: str, **config: Any) -> Verdict:
    return Pii(Config(**config)).judge(
        Document(id="d", source="s", kind="k", licence="l", work="w", text=text)
    )


def test_five_hits_are_masked_and_six_drop_the_document() -> None:
    five, six = judge("a@b.org " * 5, max_hits=5), judge("a@b.org " * 6, max_hits=5)
    assert (five.keep, five.text, five.score) == (True, "<EMAIL> " * 5, 5)
    assert (six.keep, six.text, six.score, six.reason) == (False, "a@b.org " * 6, 6, "too_much_pii")


MIXED = "x@y.org, 4111 1111 1111 1111, 8.8.4.4, 8.8.8.8"


def test_what_a_hit_does_is_chosen_by_sort() -> None:
    assert judge(MIXED).text == "<EMAIL>, <CARD>, <IP>, <IP>"
    verdict = judge(MIXED, actions={"ip": "drop"})
    assert (verdict.reason, verdict.score, verdict.text) == ("forbidden_pii", 2, MIXED)
    kept = judge(MIXED, actions={"ip": "keep", "card": "keep"})
    assert (kept.text, kept.edits) == ("<EMAIL>, 4111 1111 1111 1111, 8.8.4.4, 8.8.8.8", {"email": 1})


def test_one_action_for_all_sorts() -> None:
    assert judge(MIXED, action="drop").score == 4
    assert judge(MIXED, action="keep").text == MIXED
    assert judge(MIXED, action="drop", actions={"ip": "mask", "card": "mask", "email": "mask"}).keep


@pytest.mark.parametrize(
    ("bad", "message"), [({"actions": {"name": "drop"}}, "must name sorts"), ({"max_hits": -1}, "max_hits")]
)
def test_a_config_out_of_range_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**bad)


def test_what_an_overlap_hid_is_masked_too() -> None:
    text = "+44 20 7946 0958 4111 1111 1111 1111"  # the telephone number could run on into the card
    assert mask(text) == ("<PHONE> <CARD>", {"card": 1, "phone": 1})


@given(st.text("0123456789 .-+()@abcAX:", max_size=60))
def test_masked_text_holds_nothing_left_to_mask(text: str) -> None:
    masked, _ = mask(text)
    assert mask(masked) == (masked, {})


@pytest.mark.parametrize("number", ["4111111111111111", "79927398713", "0", "18"])
def test_luhn_accepts_and_refuses_every_other_check_digit(number: str) -> None:
    assert luhn(number)
    assert sum(luhn(number[:-1] + digit) for digit in "0123456789") == 1


def test_an_endless_local_part_costs_no_time() -> None:
    assert mask("a." * 50_000)[1] == {}
