import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from llm.tokenizer import unigram
from llm.tokenizer.algorithms.base import backend_of
from llm.tokenizer.byte_level import WORD


def test_alphabet_by_hand() -> None:
    counts = {"ab": 6, "ac": 2, "z": 1}  # a 8, b 6, c 2, z 1: 17 characters
    assert unigram.choose_alphabet(counts, 1.0, 10) == set("abcz")
    assert unigram.choose_alphabet(counts, 14 / 17, 10) == set("ab")
    assert unigram.choose_alphabet(counts, 14.1 / 17, 10) == set("abc")
    assert unigram.choose_alphabet(counts, 1.0, 2) == set("ab")
    assert unigram.choose_alphabet({"b": 1, "a": 1, "c": 1}, 1.0, 2) == set("ab")  # ties by spelling
    assert unigram.choose_alphabet(counts, 1.0, 0) == set() == unigram.choose_alphabet({}, 1.0, 5)


def test_stretches_by_hand() -> None:
    counts = {" héllo": 3, "llo": 2, "éé": 1, "-" * 600: 1}
    found = unigram.stretches(counts, set(" helo-"))
    assert found == {" h": 3, "-" * 256: 2, "-" * 88: 1, "llo": 5}
    assert list(found) == sorted(found)
    assert unigram.stretches(counts, set()) == {}


@given(
    word=st.text("ab[]^-\\&~|.é ", min_size=1), alphabet=st.sets(st.sampled_from("ab[]^-\\&~|."), min_size=1)
)
def test_an_alphabet_may_hold_any_character(word: str, alphabet: set[str]) -> None:
    found = unigram.stretches({word: 1}, alphabet)
    inside = "".join(character if character in alphabet else " " for character in word)
    assert sum(found.values()) == len(inside.split())
    assert set(found) == set(inside.split())


def test_no_text_spells_a_byte_piece() -> None:
    for piece in unigram.BYTE_PIECES:
        assert len(WORD.findall(piece)) >= 4
        assert len(WORD.findall(f" {piece}")) >= 4


def test_ids_are_special_tokens_then_bytes_then_pieces_by_probability() -> None:
    special = ("<|endoftext|>", "<|pad|>")
    parts = unigram.parts({"a": -2.0, "duck": -1.0, "b": -2.0}, special)
    vocabulary = backend_of(*parts, special).get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__) == [
        *special,
        *unigram.BYTE_PIECES,
        "duck",
        "a",
        "b",
    ]


def test_decoder_reads_runs_of_bytes() -> None:
    decode = unigram.parts({"a": -1.0}, ())[2].decode
    as_bytes = [f"<0x{byte:02X}>" for byte in "鸭é".encode()]
    assert decode(["a", *as_bytes, " b"]) == "a鸭é b"
    # All or nothing: where a run is no UTF-8, the library gives one U+FFFD for each of its bytes.
    assert decode([*as_bytes[:4], "a"]) == "\ufffd" * 4 + "a"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"character_coverage": 0.0}, r"character_coverage \(0.0\) must be above 0, at most 1"),
        ({"character_coverage": 1.5}, r"character_coverage \(1.5\)"),
        ({"shrink": 1.0}, r"shrink \(1.0\) must be between 0 and 1"),
        ({"shrink": 0.0}, r"shrink \(0.0\)"),
        ({"max_piece_length": 0}, r"max_piece_length \(0\) must be at least 1"),
    ],
)
def test_bad_params(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unigram.Learning(**changes)  # type: ignore[arg-type]


def test_the_pattern_of_the_library_is_the_same_one() -> None:
    pre_tokenizer = unigram.parts({"a": -1.0}, ())[1]
    assert isinstance(pre_tokenizer, tokenizers.pre_tokenizers.PreTokenizer)
    text = "A: I've got 2 cats;\n\n  they're 13 years old! 鸭子 _x_  "
    assert [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] == WORD.findall(text)
