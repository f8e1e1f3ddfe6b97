"""Words and shingles of many texts at once against the regular expression and plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import shingles as module
from llm.data.shingles import groups, jaccard, mix, shingle_hashes, shingles, word_hashes
from llm.data.words import words

MASK = 2**64 - 1
TEXTS = st.text(
    alphabet=st.sampled_from([*"abZ09'_ \n\t:.-A", "’", "é", "İ", "好", "🙂", "\ud800"]), max_size=30
)


def plain_mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def plain_word(word: str) -> int:
    total = 0
    for place, byte in enumerate(word.encode("utf-8", "surrogatepass")):
        code = plain_mix((byte + 1) * 0x9E3779B97F4A7C15 & MASK)
        total += code * pow(0xD1342543DE82EF95, place, 2**64)
    return plain_mix(total & MASK)


def plain_shingles(text: str, n: int) -> list[int]:
    hashes = [plain_word(word) for word in words(text.lower())]
    n = min(n, len(hashes))
    runs = [hashes[start : start + n] for start in range(len(hashes) - n + 1)] if n else []
    out = []
    for run in runs:
        total = 0
        for value in run:
            total = (total * 0x9E3779B97F4A7C15 + value) & MASK
        out.append(plain_mix(total))
    return out


@given(text=TEXTS)
def test_words_are_those_of_the_shared_definition(text: str) -> None:
    assert word_hashes([text]).values.tolist() == [plain_word(word) for word in words(text.lower())]


@given(texts=st.lists(TEXTS, max_size=5), n=st.integers(1, 4))
def test_shingles_equal_plain_python(texts: list[str], n: int) -> None:
    got = shingle_hashes(texts, n)
    want = [plain_shingles(text, n) for text in texts]
    assert got.values.tolist() == [value for some in want for value in some]
    assert got.sizes.tolist() == [len(some) for some in want]
    assert [got.one(row).tolist() for row in range(len(texts))] == want


def test_no_shingle_crosses_the_border_of_a_text() -> None:
    assert shingle_hashes(["a b c", "d e f"], 3).sizes.tolist() == [1, 1]
    assert shingle_hashes(["a b", "", "c"], 3).sizes.tolist() == [1, 0, 1]


def test_case_line_ends_and_speakers_make_no_difference() -> None:
    chat = "A: Hello, you there.\nB: Don't say so!"
    for copy in (chat.upper(), chat.lower(), chat.title(), chat.replace("\n", " ")):
        assert shingles(copy, 3).tolist() == shingles(chat, 3).tolist()


def test_groups_are_cut_by_length_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{n} " * (n % 5) for n in range(40)]
    assert [len(group) for group in groups(["aaa", "bb", "c", "dddddd", "e"], 5)] == [2, 1, 1, 1]
    together = shingle_hashes(texts, 2)
    monkeypatch.setattr(groups, "__defaults__", (1,))
    apart = shingle_hashes(texts, 2)
    np.testing.assert_array_equal(together.values, apart.values)
    np.testing.assert_array_equal(together.sizes, apart.sizes)


def test_a_word_longer_than_any_table_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = np.zeros(0, dtype=np.uint64)
    monkeypatch.setattr(module, "_POWERS", (empty, empty))
    assert word_hashes(["ab" * 500]).values.tolist() == [plain_word("ab" * 500)]


def test_words_that_differ_have_hashes_that_differ() -> None:
    spelled = [f"{a}{b}" for a in range(300) for b in "abcdefghijklmnopqrstuvwxyz"]
    assert len(set(word_hashes([" ".join(spelled)]).values.tolist())) == len(spelled)


def test_chinese_is_cut_into_characters() -> None:
    assert len(shingles("从前有一个小姑娘", 5)) == 4


def test_hashes_never_change_between_versions_and_machines() -> None:
    # printed by this code, whose arithmetic the tests above check; other numbers would drop other documents
    assert shingles("the quick brown fox", 2).tolist() == GOLDEN


def test_mix_equals_plain_python() -> None:
    values = [0, 1, 2**63, MASK, 0x123456789ABCDEF]
    assert mix(np.array(values, dtype=np.uint64)).tolist() == [plain_mix(value) for value in values]


def test_jaccard_counts_sets() -> None:
    left, right = np.array([1, 1, 2, 3], dtype=np.uint64), np.array([3, 3, 4], dtype=np.uint64)
    assert jaccard(left, right) == 0.25
    assert jaccard(left[:0], right[:0]) == 0.0


GOLDEN = [8307034124362154434, 14897386323359470488, 7431231466557185906]
