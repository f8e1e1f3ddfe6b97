"""token_text: the text of tokens and the character at which each token begins.

Cutting a document at the end of a sentence needs both: sentences are found in text, cuts are made between
tokens.

Shapes      T tokens of a document
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm.data.sentences import sentence_breaks
from llm.tokenizer.base import Tokenizer

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_LINES = re.compile(r"\n+")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class TokenText:
    """starts_T: the character each token begins at, never falling.

    A token that begins inside a character, which the token before began, has the start of the next one.
    """

    text: str
    starts_T: np.ndarray

    def positions(self, breaks: Iterable[tuple[int, int]]) -> np.ndarray:
        """Tokens before which the text may be cut, rising: for each break the last token that begins in it.

        breaks: spans of the white space between two units, which stays with the first. A break that lies
        inside a token is none.
        """
        spans = np.array(list(breaks), dtype=np.int64).reshape(-1, 2)
        at = np.searchsorted(self.starts_T, spans[:, 1], side="right") - 1
        return np.unique(at[self.starts_T[at] >= spans[:, 0]])

    def blank_lines(self) -> np.ndarray:
        """Positions after blank lines: where paragraphs begin."""
        return self.matches(_BLANK_LINES)

    def lines(self) -> np.ndarray:
        """Positions where lines begin."""
        return self.matches(_LINES)

    def sentences(self) -> np.ndarray:
        """Positions where sentences begin."""
        return self.positions(sentence_breaks(self.text))

    def words(self) -> np.ndarray:
        """Positions where words begin."""
        return self.matches(_SPACES)

    def matches(self, pattern: re.Pattern[str]) -> np.ndarray:
        """Positions at the matches of a pattern."""
        return self.positions(match.span() for match in pattern.finditer(self.text))


class TextReader:
    """Reads tokens as text, many documents with one tokenizer. Special tokens have no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special_ids.values())
        pieces = tokenizer.piece_bytes
        self._bytes = [b"" if index in special else piece for index, piece in enumerate(pieces)]
        self._n_bytes = np.array([len(piece) for piece in self._bytes], dtype=np.int64)

    def read(self, ids_T: np.ndarray) -> TokenText:
        """Text and starts of the tokens of a whole document."""
        data = b"".join([self._bytes[index] for index in ids_T.tolist()])
        ends_T = np.cumsum(self._n_bytes[ids_T])
        first = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80  # bytes that begin a character
        characters = np.concatenate(([0], np.cumsum(first)))  # begun before each byte
        return TokenText(data.decode(), characters[ends_T - self._n_bytes[ids_T]])
