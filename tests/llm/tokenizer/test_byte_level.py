from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from llm.tokenizer.byte_level import (
    ALPHABET,
    BYTE_TO_CHARACTER,
    byte_characters,
    spell,
    spelled_words,
    unspell,
)

LIBRARY = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def test_byte_characters_are_those_of_gpt2() -> None:
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert all(character.isprintable() and not character.isspace() for character in characters)
    named = (characters[ord(" ")], characters[ord("\n")], characters[0], characters[255])
    assert named == ("Ġ", "Ċ", "Ā", "ÿ")
    assert characters[ord("A")] == "A"
    assert sorted(pre_tokenizers.ByteLevel.alphabet()) == ALPHABET


def test_words_join_to_the_text() -> None:
    assert list(spelled_words("I'll  swim 12km!\n")) == ["I", "'ll", "Ġ", "Ġswim", "Ġ12", "km", "!", "Ċ"]


# Code points that became letters in a Unicode newer than the library's tables are left out.
@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(st.characters(exclude_categories=("Cs", "Cn"))),
        st.text("aé鸭🦆1_' \n\t\r.sdmtl\u3000\u00a0\u200d"),
    )
)
def test_words_are_the_librarys(text: str) -> None:
    words = list(spelled_words(text))
    assert words == [word for word, _ in LIBRARY.pre_tokenize_str(text)]
    assert unspell("".join(words)) == text.encode()


def test_spelling() -> None:
    assert spell(" é") == "ĠÃ©"
    assert unspell("ĠÃ©") == " é".encode()
    assert bytes(range(256)) == unspell("".join(BYTE_TO_CHARACTER))
