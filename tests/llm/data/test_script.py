"""Scripts and the two languages told by them."""

import unicodedata

import pytest

from llm.data.script import language, letters, script_of


def test_letters_are_counted_by_script() -> None:
    assert letters("Hi, 世界! 42") == {"latin": 2, "han": 2}
    assert letters("Ça va? да, カナ") == {"latin": 4, "other": 4}
    assert letters("plain ASCII, 7 times") == {"latin": 15}
    assert letters("") == {"latin": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Once upon a time", "en"),
        ("床前明月光，疑是地上霜。", "zh"),
        ("李白 wrote it", "en"),
        ("李白作靜夜思 poem", "zh"),
        ("", "en"),
        ("12 + 30 = 42", "en"),
    ],
)
def test_more_than_half_of_the_letters_decide(text: str, expected: str) -> None:
    assert language(text) == expected


def test_the_ranges_agree_with_unicode() -> None:
    """What Python's own database calls Latin or a CJK ideograph, outside of a few late blocks."""
    for code in (
        *range(0x20, 0x3000),
        *range(0x3400, 0xA000),
        *range(0xF900, 0xFB00),
        *range(0x20000, 0x32000),
    ):
        name = unicodedata.name(chr(code), "")
        if name.startswith("LATIN") and chr(code).isalpha() and (code < 0x250 or 0x1E00 <= code < 0x1F00):
            assert script_of(chr(code)) == "latin", name
        if name.startswith("CJK"):
            assert script_of(chr(code)) == ("han" if "IDEOGRAPH" in name else None), name
