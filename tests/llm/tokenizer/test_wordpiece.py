"""What the three WordPiece kinds share."""

from tokenizers import decoders

from llm.tokenizer.algorithms.base import backend_of
from llm.tokenizer.byte_level import BYTE_TO_CHARACTER
from llm.tokenizer.wordpiece import MAX_BYTES, PREFIX, alphabet, decoder, join, model, pre_tokenizer


def test_the_prefix_is_no_byte_of_a_text() -> None:
    assert PREFIX not in BYTE_TO_CHARACTER
    assert "#" in BYTE_TO_CHARACTER  # why BERT's `##` would not do
    assert len(set(alphabet())) == 512


def test_join() -> None:
    assert join("Ġun", "‿du") == "Ġundu"
    assert join("‿du", "‿ly") == "‿duly"


def test_words_are_cut_at_100_bytes() -> None:
    parts = [part for part, _ in pre_tokenizer().pre_tokenize_str("湖" * 40 + " ok")]
    assert [len(part) for part in parts] == [MAX_BYTES, 20, 3]


def test_a_prefix_that_text_can_spell_loses_text() -> None:
    """The reason for the undertie: with `##` the two hashes at the start of a piece vanish when it is read."""
    backend = backend_of(model([*alphabet(), "Ġ##"]), pre_tokenizer(), decoder())
    ids = backend.encode(" ##").ids
    assert ids == [512]
    assert backend.decode(ids) == " ##"
    backend.decoder = decoders.Sequence([decoders.Replace("##", ""), decoders.ByteLevel()])
    assert backend.decode(ids) == " "
