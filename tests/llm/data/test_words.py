"""The definition of a word."""

import pytest

from llm.data.words import without_speakers, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The fir-tree, stood!", ["the", "fir", "tree", "stood"]),
        ("Don't 'quote' the dogs' tails", ["don't", "quote", "the", "dogs", "tails"]),
        ("don’t stop", ["don’t", "stop"]),
        ("snake_case 3.14 a1", ["snake", "case", "3", "14", "a1"]),
        ("Ångström NAÏVE straße", ["ångström", "naïve", "straße"]),
        ("你好 world世界", ["你", "好", "world", "世", "界"]),
        ("西厢记・第二本", ["西", "厢", "记", "第", "二", "本"]),
        ("ひらがな", ["ひ", "ら", "が", "な"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("A: hi\nB: A: what", ["hi", "a", "what"]),
        ("AB: x", ["ab", "x"]),
        ("", []),
        ("... — !", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_both_patterns_agree_where_both_apply() -> None:
    text = "It's 3 o'clock -- 'tis a rock'n'roll_show, isn't it?' x' 'y"
    assert words(text) == [*words(text + " é")[:-1]]


def test_speaker_marks_go_and_nothing_else() -> None:
    assert without_speakers("A: one B: two\nB: three\nnot A: here") == "one B: two\nthree\nnot A: here"
