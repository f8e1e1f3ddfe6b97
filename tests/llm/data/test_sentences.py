from itertools import pairwise

import pytest

from llm.data.sentences import sentence_breaks


def sentences(text: str) -> list[str]:
    borders = [0, *(end for _, end in sentence_breaks(text)), len(text)]
    return [text[start:end] for start, end in pairwise(borders) if end > start]


@pytest.mark.parametrize(
    "expected",
    [
        ["One. ", "Two! ", "Three? ", "Four… ", "Five."],
        ["Mr. Smith saw Dr. J. Watson. ", "He left at 5 p.m. on foot, i.e. walking."],
        ['"Go!" ', 'He went. ', '"Why?" said she.'],
        ["He waited... and waited... ", "Then he left."],
        ["It is I. ", "You know."],
        ["A: hello\n", "B: hi there\n\n", "A: bye"],
        ["It cost 3.50 in all. ", "(Really.) ", "Yes."],
        ["你好。", "你是谁？", "“我是王！”", "再见……", "“走吧。”"],
        ["One word", ],
        ["Wait… what? ", "No."],
    ],
)  # fmt: skip
def test_sentences(expected: list[str]) -> None:
    assert sentences("".join(expected)) == expected


def test_breaks_are_the_space_between() -> None:
    assert sentence_breaks("A b.  C\n d。e") == [(4, 6), (7, 9), (11, 11)]
