"""encoded: token ids of a split as memory-mapped integers, written once and checked whenever they are opened.

data/encoded/<set>/<split>/
  tokens.bin      u16 (u32 from 65,537 tokens of vocabulary on), little-endian, documents one after the other
  offsets.bin     u64, n_docs + 1: document i is tokens[offsets[i] : offsets[i + 1]]
  loss_mask.bin   u8 per token, 1 = this token is a scored target
  docs.jsonl      one line a document: id, kind, n_bytes (UTF-8 bytes of the scored text), payload
  meta.json       dtype, n_docs, n_tokens, vocab_size, tokenizer_hash, set, split
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm.runtime import atomic_file, read_json, write_json

# ids, loss mask, record of docs.jsonl
EncodedDoc = tuple[Sequence[int], Sequence[int], dict[str, Any]]

_DTYPES: dict[str, np.dtype[Any]] = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}


@dataclass(frozen=True)
class EncodedSet:
    """One split, opened read-only; the arrays are memory maps."""

    folder: Path
    meta: dict[str, Any]
    tokens: np.ndarray
    offsets: np.ndarray
    loss_mask: np.ndarray
    docs: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> "EncodedSet":
        """Open a split folder. Raises ValueError naming the file and the stage to run when it is damaged."""
        meta = read_meta(folder, "encode", ("dtype", "n_docs", "n_tokens", "vocab_size", "tokenizer_hash"))
        n_docs, n_tokens = meta["n_docs"], meta["n_tokens"]
        tokens = open_array(folder / "tokens.bin", dtype_of(meta["dtype"]), (n_tokens,), meta)
        offsets = open_array(folder / "offsets.bin", np.dtype("<u8"), (n_docs + 1,), meta)
        loss_mask = open_array(folder / "loss_mask.bin", np.dtype("u1"), (n_tokens,), meta)
        if offsets[0] != 0 or offsets[-1] != n_tokens or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(
                f"{folder}/offsets.bin: not a rising sequence from 0 to {n_tokens}; {rerun(meta)}"
            )
        return cls(folder, meta, tokens, offsets, loss_mask, _read_docs(folder / "docs.jsonl", meta))

    def __len__(self) -> int:
        return len(self.docs)

    def doc(self, index: int) -> np.ndarray:
        """Token ids of one document."""
        return self.tokens[self._span(index)]

    def mask(self, index: int) -> np.ndarray:
        """Loss mask of one document."""
        return self.loss_mask[self._span(index)]

    def _span(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: document {index} of {len(self)}")
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


def write_encoded(
    folder: Path,
    docs: Iterable[EncodedDoc],
    *,
    set_name: str,
    split: str,
    tokenizer_hash: str,
    vocab_size: int,
) -> dict[str, Any]:
    """Write a split folder document by document and return its meta.

    Raises:
        ValueError: no documents, or a mask that is not as long as its ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = "u16" if vocab_size <= 1 << 16 else "u32"
    offsets = [0]
    with (
        atomic_file(folder / "tokens.bin", "wb") as tokens_file,
        atomic_file(folder / "loss_mask.bin", "wb") as mask_file,
        atomic_file(folder / "docs.jsonl") as docs_file,
    ):
        for ids, mask, record in docs:
            if len(ids) != len(mask):
                raise ValueError(
                    f"{folder}: document {record['id']!r} has {len(ids)} ids, {len(mask)} mask values"
                )
            tokens_file.write(np.asarray(ids, dtype=_DTYPES[dtype]).tobytes())
            mask_file.write(np.asarray(mask, dtype=np.uint8).tobytes())
            docs_file.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
            offsets.append(offsets[-1] + len(ids))
        if not offsets[-1]:
            raise ValueError(f"{folder}: no documents to encode; the {split} split of '{set_name}' is empty")
    with atomic_file(folder / "offsets.bin", "wb") as handle:
        handle.write(np.asarray(offsets, dtype="<u8").tobytes())
    meta = {
        "set": set_name,
        "split": split,
        "dtype": dtype,
        "n_docs": len(offsets) - 1,
        "n_tokens": offsets[-1],
        "vocab_size": vocab_size,
        "tokenizer_hash": tokenizer_hash,
    }
    write_json(folder / "meta.json", meta)
    return meta


def check_tokenizer(
    meta: dict[str, Any], hash: str, where: str | Path, tokenizer: str | Path = "models/tokenizer"
) -> None:
    """Raise ValueError when the data described by `meta` (of `where`) was made with another tokenizer."""
    if meta["tokenizer_hash"] != hash:
        raise ValueError(
            f"{where}: made with tokenizer {meta['tokenizer_hash'][:12]}…, "
            f"but {tokenizer} is {hash[:12]}…; {rerun(meta)}"
        )


# ---------------------------------------------------------------- shared with packed rows


def rerun(meta: dict[str, Any]) -> str:
    """What to do about damaged or foreign data: `run: dvc repro encode@pretrain`."""
    stage = "pack" if "n_rows" in meta else "encode"
    return f"run: dvc repro {stage}@{meta.get('set', 'pretrain')}"


def read_meta(folder: Path, stage: str, keys: Sequence[str]) -> dict[str, Any]:
    """meta.json of a data folder, with at least `keys`."""
    path = folder / "meta.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run: dvc repro {stage}")
    meta = read_json(path)
    missing = [key for key in keys if not isinstance(meta, dict) or key not in meta]
    if missing:
        raise ValueError(
            f"{path}: no key '{missing[0]}', not written by stage {stage}; run: dvc repro {stage}"
        )
    return meta


def dtype_of(name: str) -> np.dtype:
    """The numpy type of a stored token: `u16` or `u32`, little-endian."""
    if name not in _DTYPES:
        raise ValueError(
            f"meta.json: dtype {name!r} is not one of {', '.join(_DTYPES)}; run: dvc repro encode"
        )
    return _DTYPES[name]


def open_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], meta: dict[str, Any]) -> np.ndarray:
    """Memory-map a raw array read-only. Raises ValueError when its size is not what meta.json says."""
    expected = int(np.prod(shape)) * dtype.itemsize
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise ValueError(f"{path}: no such file; {rerun(meta)}")
    if found != expected:
        raise ValueError(
            f"{path}: {found} bytes, meta.json says {expected} (truncated or foreign); {rerun(meta)}"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _read_docs(path: Path, meta: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as handle:
            docs = [json.loads(line) for line in handle]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {rerun(meta)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); {rerun(meta)}") from None
    if len(docs) != meta["n_docs"]:
        raise ValueError(
            f"{path}: {len(docs)} lines, meta.json says {meta['n_docs']} (truncated); {rerun(meta)}"
        )
    return docs
