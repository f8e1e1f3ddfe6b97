"""Normalisation: what changes, what must not, and that once is enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.document import Document
from llm.data.normalize import Normalize, NormalizeParams, normalize

TRICKY = st.sampled_from(
    list("ÃÂâ€™©\u0080\u0099\u0082¬ðŸ˜\u0301\u200d\u200b\ufeff\r\n\x00\x85\ud83d\u2028👩👧a ️\u0958")
)


@given(text=st.text(st.characters()) | st.text(TRICKY, max_size=12))
def test_twice_is_once(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert normalize(normalize(text, mojibake=False), mojibake=False) == normalize(text, mojibake=False)


@given(text=st.text(st.characters()) | st.text(TRICKY, max_size=12))
def test_nothing_unwanted_is_left(text: str) -> None:
    clean = normalize(text)
    assert not any(ord(c) < 32 and c not in "\t\n" for c in clean)
    assert not any(0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in clean)
    assert not set(clean) & set("\u200b\u200c\ufeff\u2028\u2029")
    assert "\n\n\n\n" not in clean
    clean.encode("utf-8")


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\t")))
def test_plain_text_passes_byte_for_byte(text: str) -> None:
    assert normalize(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one\r\ntwo\rthree\x0bfour\u2028five", "one\ntwo\nthree\nfour\nfive"),
        ("\ufeffstart\u200b", "start"),
        ("a\x00b\x1bc\x7f", "abc"),
        ("cafe\u0301", "café"),
        ("a" + "\n" * 9 + "b", "a\n\n\nb"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("tab\tand  spaces ", "tab\tand  spaces "),
        ("ﬁ ½ Ａ", "ﬁ ½ Ａ"),  # compatibility forms stay: NFC, not NFKC
        ("half \ud83d pair", "half \ufffd pair"),
    ],
)
def test_what_changes(before: str, after: str) -> None:
    assert normalize(before) == after


@pytest.mark.parametrize(
    "word", ["café", "naïve", "Ångström", "“quoted”", "don’t", "wait…", "€5", "¿qué?", "😀", "a\u00a0b"]
)
def test_utf8_read_as_latin_is_repaired(word: str) -> None:
    data = word.encode("utf-8")
    assert normalize(data.decode("latin-1")) == word
    assert normalize("".join(_cp1252(byte) for byte in data)) == word


def test_double_damage_is_repaired_too() -> None:
    assert normalize("café".encode().decode("latin-1").encode().decode("latin-1")) == "café"


def test_mojibake_can_be_left_alone() -> None:
    assert normalize("cafÃ©", mojibake=False) == "cafÃ©"


@pytest.mark.parametrize("text", ["Ã", "Â", "à â", "«ÉTÉ»", "NÃO", "âge", "São João", "Ä Ö Ü ß", "ñandú"])
def test_honest_accents_are_no_mojibake(text: str) -> None:
    assert normalize(text) == text


def test_joiners_stay_only_inside_emoji() -> None:
    family, heart = "👨\u200d👩\u200d👧", "❤\ufe0f\u200d🔥"
    assert normalize(f"{family} {heart}") == f"{family} {heart}"
    assert normalize("a\u200db 👨\u200d a\u200d👨") == "ab 👨 a👨"


def test_the_filter_says_what_it_did() -> None:
    def judge(text: str):  # type: ignore[no-untyped-def]
        return Normalize(NormalizeParams()).judge(
            Document(id="d", source="s", kind="k", licence="l", work="w", text=text)
        )

    assert judge("same").edits == {}
    assert judge("a\r\nb").edits == {"normalized": 1}
    assert judge("\ufffdabc").score == 0.25


def _cp1252(byte: int) -> str:
    """Windows-1252, where its five undefined bytes become control characters as browsers do."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)
