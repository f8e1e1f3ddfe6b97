"""spelling: the bytes that a piece of a vocabulary stands for.

The file of a tokenizer holds text, and a piece need not be text: the two halves of "é" are pieces like any other.
How bytes are written down as characters follows from the type of the model.

    BPE        one character a byte (byte_level.py)
    WordPiece  the same, behind a prefix where the piece continues a word
    Unigram    in characters, or `<0xE4>` for a single byte
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from llm.tokenizer.byte_level import unspell

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def piece_bytes(pieces: Sequence[str], special: Collection[str], model: dict[str, Any]) -> list[bytes]:
    """Every piece as bytes; a special token's are those of its name.

    pieces:  the vocabulary in id order
    special: the names among them that are no text
    model:   the `model` of tokenizer.json
    """
    prefix = model.get("continuing_subword_prefix") or ""
    found = []
    for piece in pieces:
        if piece in special:
            found.append(piece.encode())
        elif model["type"] != "Unigram":
            found.append(unspell(piece.removeprefix(prefix)))
        elif match := _BYTE_PIECE.fullmatch(piece):
            found.append(bytes([int(match[1], 16)]))
        else:
            found.append(piece.encode())
    return found
