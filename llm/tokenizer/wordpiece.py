"""wordpiece: what the three WordPiece kinds share: how pieces are written, cut and put together again.

    "unduly"  ->  Ġun ‿du ‿ly        ‿ says: I continue the word before me

The prefix must never be part of a text. BERT's `##` is not safe: a piece `##a` may be the letter a inside a word
or two hashes and an a. Here words are spelled in the 256 characters of byte_level.py, and U+203F, the undertie,
is none of them. Taking it off the front of every piece and joining them gives the bytes back.
"""

from collections.abc import Sequence

from tokenizers import Regex, decoders, models, pre_tokenizers

from llm.tokenizer.byte_level import ALPHABET

PREFIX = "\u203f"
MAX_BYTES = (
    100  # longer words are cut: longest match tries every end of a word, and BERT's rule is the same number
)


def alphabet() -> list[str]:
    """The pieces of one byte, inside a word and at its start, in id order."""
    return [*(PREFIX + character for character in ALPHABET), *ALPHABET]


def join(left: str, right: str) -> str:
    """How a merged pair is written: Ġun + ‿du is Ġundu, ‿du + ‿ly is ‿duly."""
    return left + right.removeprefix(PREFIX)


def model(pieces: Sequence[str]) -> models.WordPiece:
    """The library's longest match over these pieces. `[UNK]` is none of them: to need it would be an error."""
    return models.WordPiece(
        {piece: index for index, piece in enumerate(pieces)},
        unk_token="[UNK]",
        max_input_chars_per_word=MAX_BYTES,
        continuing_subword_prefix=PREFIX,
    )


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """GPT-2's words in byte characters, in parts of at most MAX_BYTES."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            pre_tokenizers.Split(Regex(f".{{1,{MAX_BYTES}}}"), behavior="isolated"),
        ]
    )


def decoder() -> decoders.Decoder:
    """Take the prefix off, then read the characters as bytes."""
    return decoders.Sequence([decoders.Replace(PREFIX, ""), decoders.ByteLevel()])
