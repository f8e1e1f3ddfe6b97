"""What is special about each way to cut documents, on texts whose tokens are words."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.chunking import fixed, paragraph, sentence, sliding, structure, truncate
from llm.data.chunking.base import Chunker, split
from llm.data.token_text import TokenText
from llm.params import ParamsError, from_dict

SENTENCE = sentence.build(sentence.Config())
PARAGRAPH = paragraph.build(paragraph.Config())
STRUCTURE = structure.build(structure.Config())


def tokenised(text: str) -> TokenText:
    """Words with the space before them, line breaks and blanks alone, as byte-level BPE would cut."""
    starts = [match.start() for match in re.finditer(r" ?[^\s]+|\n|[ \t]", text)]
    return TokenText(text, np.array([*starts, len(text)]))  # the last is the end of the document


def chunks(method: Chunker, text: str, size: int) -> list[str]:
    tokens = tokenised(text)
    cuts = method.cut(len(tokens.starts_T) - 1, size, tokens)
    return [text[tokens.starts_T[start] : tokens.starts_T[end]] for start, end in cuts]


def test_fixed_and_truncate_by_hand() -> None:
    assert fixed.build(fixed.Config()).cut(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert fixed.build(fixed.Config()).cut(8, 4) == [(0, 4), (4, 8)]
    assert truncate.build(truncate.Config()).cut(10, 4) == [(0, 4)]


def test_windows_slide_by_the_stride_and_the_last_may_begin_earlier() -> None:
    def windows(n: int, **options: int) -> list[tuple[int, int]]:
        return sliding.build(sliding.Config(**options)).cut(n, 5)

    assert windows(11, overlap=2) == [(0, 5), (3, 8), (6, 11)]
    assert windows(12, overlap=2) == [(0, 5), (3, 8), (6, 11), (9, 12)]
    assert windows(12, overlap=2, min_len=4) == [(0, 5), (3, 8), (6, 11), (8, 12)]
    assert windows(12, overlap=2, min_len=99) == [(0, 5), (3, 8), (6, 11), (7, 12)]
    assert windows(6, overlap=0) == fixed.build(fixed.Config()).cut(6, 5)
    with pytest.raises(ParamsError, match=r"min_len \(0\) must be positive"):
        from_dict(sliding.Config, {"overlap": 1, "min_len": 0}, "chunk")


def test_whole_sentences_as_many_as_fit() -> None:
    text = "One two. Three four five. Six. Seven eight nine ten eleven twelve thirteen. End."
    assert chunks(SENTENCE, text, 5) == [
        "One two. Three four five.", " Six.", " Seven eight nine ten eleven", " twelve thirteen.", " End.",
    ]  # fmt: skip
    overlapping = sentence.build(sentence.Config(overlap=2))
    assert chunks(overlapping, text, 7)[:3] == [
        "One two. Three four five.", " four five. Six.", " five. Six. Seven eight nine ten eleven",
    ]  # fmt: skip


def test_paragraphs_then_lines_then_sentences_then_words() -> None:
    text = "a b c\n\nd e\nf g\n\nOne two. Three four five six.\n\nz " + "w " * 9
    assert chunks(PARAGRAPH, text, 7) == [
        "a b c\n\n", "d e\nf g\n\n", "One two.", " Three four five six.\n\n", "z w w w w w w", " w w w ",
    ]  # fmt: skip


def test_neighbours_that_fit_together_stay_together() -> None:
    assert chunks(PARAGRAPH, "a\n\nb\n\nc\n\nd", 6) == ["a\n\nb\n\n", "c\n\nd"]


CODE = "Intro.\n\n```py\nx = 1\n\n\ny = 2\n```\n\nOutro."


def test_a_fenced_block_is_cut_only_when_it_alone_is_too_long() -> None:
    block = "```py\nx = 1\n\n\ny = 2\n```\n"
    assert chunks(STRUCTURE, CODE, 15) == ["Intro.\n\n", block + "\n", "Outro."]
    assert chunks(STRUCTURE, CODE, 18) == ["Intro.\n\n" + block + "\n", "Outro."]
    assert [part for part in chunks(STRUCTURE, CODE, 9) if "x" in part or "y" in part] == [
        "```py\nx = 1\n\n\n", "y = 2\n```\n",
    ]  # fmt: skip
    assert not any(block in part for part in chunks(PARAGRAPH, CODE, 15))


LINES = ["```\n", "```py\n", "~~~\n", "x = 1\n", "\n", "# Title\n", "some words. And more\n", "def f(x):\n"]


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(st.sampled_from(LINES), min_size=2, max_size=30), size=st.integers(3, 25))
def test_no_cut_lies_in_a_block_that_fits(lines: list[str], size: int) -> None:
    text = "".join(lines)
    tokens = tokenised(text)
    for _, end in STRUCTURE.cut(len(tokens.starts_T) - 1, size, tokens)[:-1]:
        at = tokens.starts_T[end]
        for first, last in structure.fences(text):
            block = ((tokens.starts_T >= first) & (tokens.starts_T < last)).sum()
            assert not first < at < last or block > size


def test_headings_are_preferred_the_highest_first() -> None:
    text = "# A\none two\n## B\nthree four\n## C\nfive six\n# D\nseven"
    assert chunks(STRUCTURE, text, 17) == [
        "# A\none two\n## B\nthree four\n",
        "## C\nfive six\n",
        "# D\nseven",
    ]
    assert chunks(STRUCTURE, "x\n```\n# no heading\n```\n# D\ny", 12)[-1] == "# D\ny"


def test_code_is_cut_before_top_level_definitions_with_their_decorators() -> None:
    text = "import a\n@cache\n@other\ndef f(x):\n    y\n    z\nclass B:\n    def g(self):\n        pass\n"
    parts = chunks(STRUCTURE, text, 19)
    assert parts == [
        "import a\n", "@cache\n@other\ndef f(x):\n    y\n    z\n", "class B:\n    def g(self):\n        pass\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("a\n```\nb\n```\nc", ["```\nb\n```\n"]),
        ("````\n```\n````\nx", ["````\n```\n````\n"]),  # a shorter fence closes nothing
        ("~~~ py\n```\n~~~\n", ["~~~ py\n```\n~~~\n"]),
        ("a\n```\nb", ["```\nb"]),  # unclosed: to the end
        ("```a`b\nc", []),  # no backtick in the info of a backtick fence
        ("    ```\nc", []),  # indented code
        ("```\na\n``` py\n```\nb", ["```\na\n``` py\n```\n"]),  # a closing fence has no info
    ],
)
def test_fences_as_in_commonmark(text: str, blocks: list[str]) -> None:
    assert [text[start:end] for start, end in structure.fences(text)] == blocks


def test_split_by_hand() -> None:
    levels = [np.array([3, 10]), np.array([5, 7])]
    assert split(0, 12, 4, levels) == [(0, 3), (3, 7), (7, 10), (10, 12)]
    assert split(0, 12, 5, []) == [(0, 5), (5, 10), (10, 12)]
    assert split(0, 12, 12, levels) == [(0, 12)]
