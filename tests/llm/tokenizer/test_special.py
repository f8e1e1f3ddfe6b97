import pytest

from llm.tokenizer.special import CORE, special_tokens


def test_core_tokens_come_first_in_a_fixed_order() -> None:
    assert special_tokens(()) == CORE == ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
    assert special_tokens(("<|tool|>", "<|x_2|>")) == (*CORE, "<|tool|>", "<|x_2|>")


@pytest.mark.parametrize(
    "name", ["tool", "<tool>", "<|Tool|>", "<||>", "<|--|>", "<|__|>", "<|a b|>", " <|a|>"]
)
def test_names_that_text_could_spell_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        special_tokens((name,))


def test_twice_the_same_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'<\|a\|>' is there twice"):
        special_tokens(("<|a|>", "<|a|>"))
