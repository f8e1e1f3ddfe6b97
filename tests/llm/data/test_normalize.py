"""Normalisation: what changes, what must not, and that once is enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.document import Document
from llm.data.normalize import Normalize, NormalizeParams, Repair, normalize

TRICKY = st.sampled_from(
    list("ÃÂâ€™©\u0080\u0099\u0082¬ðŸ˜\u0301\u200d\u200b\ufeff\r\n\x00\x85\ud83d\u2028👩👧a ️\u0958")
)


@given(text=st.text(st.characters()) | st.text(TRICKY, max_size=12))
def test_twice_is_once(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert normalize(normalize(text, mojibake="none"), mojibake="none") == normalize(text, mojibake="none")


@given(text=st.text(TRICKY, max_size=12))
def test_twice_is_once_with_ftfy_too(text: str) -> None:
    once = normalize(text, mojibake="ftfy")
    assert normalize(once, mojibake="ftfy") == once


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


WESTERN = [
    "café",
    "naïve",
    "Ångström",
    "“quoted”",
    "don’t",
    "wait…",
    "€5",
    "¿qué?",
    "😀",
    "a\u00a0b",
    "½ cup",
    "6 °C",
]
FURTHER = ["Привет мир", "中文字符", "日本語", "Łódź", "Ελληνικά", "œuvre"]


@pytest.mark.parametrize("word", WESTERN)
@pytest.mark.parametrize("by", ["own", "ftfy"])
def test_utf8_read_as_latin_is_repaired(word: str, by: Repair) -> None:
    data = word.encode("utf-8")
    assert normalize(data.decode("latin-1"), mojibake=by) == word
    assert normalize(_cp1252(data), mojibake=by) == word


@pytest.mark.parametrize("word", FURTHER)
def test_other_scripts_are_repaired_by_ftfy_only(word: str) -> None:
    damaged = _cp1252(word.encode("utf-8"))
    assert normalize(damaged, mojibake="ftfy") == word
    assert normalize(damaged, mojibake="own") != word


@pytest.mark.parametrize("text", WESTERN)
def test_what_the_own_rule_repairs_ftfy_repairs_alike(text: str) -> None:
    """ftfy as the oracle, on clean text, on damaged text and on both in one line."""
    damaged = _cp1252(text.encode())
    for mixed in (text, damaged, f"He said: {damaged}, twice."):
        assert normalize(mixed, mojibake="own") == normalize(mixed, mojibake="ftfy")


def test_double_damage_is_repaired_too() -> None:
    assert normalize("café".encode().decode("latin-1").encode().decode("latin-1")) == "café"


def test_mojibake_can_be_left_alone() -> None:
    assert normalize("cafÃ©", mojibake="none") == "cafÃ©"


def test_ftfy_changes_nothing_but_wrong_decoding() -> None:
    text = "“curly” ﬁ Ａ ½ &amp; &lt;b&gt; café \x1b[1m"
    assert normalize(text, mojibake="ftfy") == text.replace("\x1b", "")


@pytest.mark.parametrize("text", ["Ã", "Â", "à â", "«ÉTÉ»", "NÃO", "âge", "São João", "Ä Ö Ü ß", "ñandú"])
@pytest.mark.parametrize("by", ["own", "ftfy"])
def test_honest_accents_are_no_mojibake(text: str, by: Repair) -> None:
    assert normalize(text, mojibake=by) == text


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


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_broken_frac \(1.5\) must lie in"):
        NormalizeParams(max_broken_frac=1.5)


def _cp1252(data: bytes) -> str:
    """Windows-1252, where its five undefined bytes become control characters as browsers do."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in data)
