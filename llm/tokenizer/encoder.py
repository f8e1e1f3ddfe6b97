"""encoder: text and bytes to ids, and ids to bytes, by the library or by a kind's own code.

Every stage that has a model reads text through `llm.tokenizer.base`. What is here serves those that make or
judge a vocabulary: encoding in bulk, bytes that are no UTF-8, and the bytes of a single piece.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain

from llm.tokenizer.base import Tokenizer
from llm.tokenizer.byte_level import BYTE_TO_CHARACTER, WORD

_CACHE_WORDS = 1 << 20
_BROKEN = re.compile("([\udc80-\udcff]+)")  # bytes that are not UTF-8, as `surrogateescape` shows them


class Encoder(ABC):
    """Text to ids and ids to bytes; equal to the library's on every text, whatever kind it belongs to."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.model = tokenizer.model

    @abstractmethod
    def encode_valid(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, never a special token. What is no Unicode may raise any TypeError or ValueError."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never a special token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts. Raises ValueError naming the text that is no Unicode."""
        try:
            return self.encode_valid(texts)
        except (TypeError, ValueError):
            self.tokenizer.encode_batch(texts)  # names the text and the place
            raise

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: stretches of UTF-8 as text, every byte between them on its own."""
        parts = _BROKEN.split(data.decode("utf-8", errors="surrogateescape"))
        ids: list[int] = []
        for text, broken in zip(parts[::2], [*parts[1::2], ""], strict=True):
            ids += self.encode(text) if text else []
            ids += [self.byte_ids[byte] for byte in broken.encode("utf-8", errors="surrogateescape")]
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids: decode_bytes(encode_bytes(data)) == data for all data."""
        return b"".join([self.tokenizer.piece_bytes[index] for index in ids])

    @cached_property
    def byte_ids(self) -> list[int]:
        """For each of the 256 bytes the id that stands for it alone (where it matters: at the start of a word)."""
        in_characters = self.model["type"] == "Unigram"
        names = [f"<0x{byte:02X}>" for byte in range(256)] if in_characters else BYTE_TO_CHARACTER
        ids = {piece: index for index, piece in enumerate(self.tokenizer.pieces())}
        return [ids[name] for name in names]


class LibraryEncoder(Encoder):
    """The `tokenizers` library, on all cores."""

    def encode_valid(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.encode_batch(texts)


class WordEncoder(Encoder):
    """Cuts texts into words and remembers the ids of each word: only a new word costs more than a look-up."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._cache = _Cache(self.encode_word)

    @abstractmethod
    def encode_word(self, word: str) -> list[int]:
        """Ids of one word as `byte_level.WORD` cuts it. Raises UnicodeEncodeError for half a surrogate pair."""

    def encode_valid(self, texts: Sequence[str]) -> list[list[int]]:
        if len(self._cache) > _CACHE_WORDS:  # a corpus of endless new words must not fill the memory
            self._cache.clear()
        ids_of = self._cache.__getitem__
        return [list(chain.from_iterable(map(ids_of, WORD.findall(text)))) for text in texts]


class _Cache(dict[str, list[int]]):
    def __init__(self, encode_word: Callable[[str], list[int]]) -> None:
        self._encode_word = encode_word

    def __missing__(self, word: str) -> list[int]:
        ids = self[word] = self._encode_word(word)
        return ids
