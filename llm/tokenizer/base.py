"""base: a trained tokenizer, text to ids and back.

    models/tokenizer/
      tokenizer.json    vocabulary, merges and pre-tokenisation, in the format of the `tokenizers` library
      meta.json         kind, vocab_size, special tokens with their ids, the chat template and its version

Whatever algorithm learned the vocabulary, the file describes it whole; readers need no algorithm's code.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from llm.runtime import hash_files, read_json
from llm.tokenizer import special
from llm.tokenizer.spelling import piece_bytes

FORMAT = "llm-from-scratch/tokenizer/1"


class Tokenizer:
    """Text to ids and back; decode(encode(text)) == text for every text.

    hash: `runtime.hash_files` of its folder. Data and models remember it, so that a vocabulary can never
    be paired with ids of another one.
    """

    def __init__(self, backend: tokenizers.Tokenizer, meta: dict[str, Any], hash: str) -> None:
        backend.encode_special_tokens = True  # "<|im_end|>" in a text is text
        self._backend = backend
        self.kind: str = meta["kind"]
        self.vocab_size: int = meta["vocab_size"]
        self.special_ids: dict[str, int] = dict(
            sorted(meta["special_tokens"].items(), key=lambda item: item[1])
        )
        self.chat_template_version: int = meta["chat_template"]["version"]
        self.hash = hash
        self.eot_id = self.special_ids[special.EOT]
        self.pad_id = self.special_ids[special.PAD]
        self.im_start_id = self.special_ids[special.IM_START]
        self.im_end_id = self.special_ids[special.IM_END]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never a special token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, on all cores (RAYON_NUM_THREADS limits them)."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            raise ValueError(_not_unicode(texts)) from None
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 (a character cut in half) become U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise ValueError(f"tokenizer: id {wrong} is outside the vocabulary of {self.vocab_size}")
        if skip_special:
            hidden = set(self.special_ids.values())
            ids = [index for index in ids if index not in hidden]
        return b"".join([self.piece_bytes[index] for index in ids]).decode("utf-8", errors="replace")

    @cached_property
    def model(self) -> dict[str, Any]:
        """The `model` of tokenizer.json: all that a kind's own code has to know (vocabulary, merges, scores)."""
        found: dict[str, Any] = json.loads(self._backend.to_str())["model"]
        return found

    @cached_property
    def piece_bytes(self) -> list[bytes]:
        """The bytes of every piece, in id order; a special token's are those of its name."""
        return piece_bytes(self.pieces(), self.special_ids, self.model)

    def pieces(self) -> list[str]:
        """The vocabulary in id order, as the backend spells it (byte-level: one character a byte)."""
        by_id = {index: piece for piece, index in self._backend.get_vocab(with_added_tokens=True).items()}
        return [by_id[index] for index in range(self.vocab_size)]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a tokenizer folder.

    Raises:
        ValueError: a missing, foreign, truncated or inconsistent folder, naming the file and what to run.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such tokenizer folder; run: dvc repro tokenizer")
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise ValueError(
            f"{folder}/meta.json: format is {found!r}, expected {FORMAT!r}; run: dvc repro tokenizer"
        )
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run: dvc repro tokenizer")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for any unreadable file
        raise ValueError(f"{path}: damaged or truncated ({error}); run: dvc repro tokenizer") from None
    _check(backend, meta, path)
    return Tokenizer(backend, meta, hash_files(folder))


def _check(backend: tokenizers.Tokenizer, meta: dict[str, Any], path: Path) -> None:
    size = backend.get_vocab_size(with_added_tokens=True)
    if size != meta["vocab_size"]:
        raise ValueError(
            f"{path}: {size} tokens, meta.json says {meta['vocab_size']}; run: dvc repro tokenizer"
        )
    for token, index in meta["special_tokens"].items():
        if backend.token_to_id(token) != index:
            found = backend.token_to_id(token)
            raise ValueError(
                f"{path}: {token} has id {found}, meta.json says {index}; run: dvc repro tokenizer"
            )


def _not_unicode(texts: Sequence[str]) -> str:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return f"tokenizer: text {index} is a {type(text).__name__}, not a string"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return (
                f"tokenizer: text {index} has half a surrogate pair at character {error.start} "
                f"({text[error.start]!r}), which no UTF-8 file can hold; normalise the source"
            )
    return "tokenizer: a text that the backend refuses"
