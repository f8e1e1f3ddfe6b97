import json
from pathlib import Path

import numpy as np
import pytest

from llm.data.encoded import EncodedSet, check_tokenizer, write_encoded

DOCS = [
    ([0, 5, 6, 0], [0, 1, 1, 1], {"id": "a", "kind": "tales", "n_bytes": 7}),
    ([0, 9], [0, 0], {"id": "b", "kind": "鸭", "n_bytes": 0, "rule": {"kind": "words"}}),
    ([0, 255, 299], [0, 0, 1], {"id": "c", "kind": "chat", "n_bytes": 2}),
]


def write(folder: Path, vocab_size: int = 300, docs: object = DOCS) -> Path:
    write_encoded(
        folder,
        docs,  # type: ignore[arg-type]
        set_name="sft",
        split="train",
        tokenizer_hash="91bc" * 16,
        vocab_size=vocab_size,
    )
    return folder


def test_round_trip(tmp_path: Path) -> None:
    encoded = EncodedSet.open(write(tmp_path / "train"))
    assert len(encoded) == 3
    for index, (ids, mask, record) in enumerate(DOCS):
        assert encoded.doc(index).tolist() == ids
        assert encoded.mask(index).tolist() == mask
        assert encoded.docs[index] == record
    assert encoded.offsets.tolist() == [0, 4, 6, 9]
    assert encoded.meta == {
        "set": "sft",
        "split": "train",
        "dtype": "u16",
        "n_docs": 3,
        "n_tokens": 9,
        "vocab_size": 300,
        "tokenizer_hash": "91bc" * 16,
    }
    assert isinstance(encoded.tokens, np.memmap)
    for index in (3, -1):
        with pytest.raises(IndexError):
            encoded.doc(index)


def test_bytes_on_disk(tmp_path: Path) -> None:
    folder = write(tmp_path / "train")
    assert (folder / "tokens.bin").read_bytes()[
        :8
    ] == b"\x00\x00\x05\x00\x06\x00\x00\x00"  # little-endian u16
    assert (folder / "offsets.bin").read_bytes()[8:16] == b"\x04" + bytes(7)
    assert (folder / "loss_mask.bin").read_bytes() == bytes([0, 1, 1, 1, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(("vocab_size", "dtype", "width"), [(1 << 16, "u16", 2), ((1 << 16) + 1, "u32", 4)])
def test_wide_vocabularies_get_wide_integers(tmp_path: Path, vocab_size: int, dtype: str, width: int) -> None:
    last = [([0, vocab_size - 1], [0, 1], {"id": "z", "kind": "k", "n_bytes": 1})]
    encoded = EncodedSet.open(write(tmp_path / "train", vocab_size, last))
    assert encoded.meta["dtype"] == dtype
    assert encoded.doc(0).tolist() == [0, vocab_size - 1]
    assert (tmp_path / "train" / "tokens.bin").stat().st_size == 2 * width


def open_error(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        EncodedSet.open(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "loss_mask.bin", "docs.jsonl"])
def test_truncated_and_missing_files(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "train")
    path = folder / name
    lines = path.read_bytes()
    path.write_bytes(lines[: lines.rindex(b"\n", 0, -1) + 1] if name == "docs.jsonl" else lines[:-1])
    message = open_error(folder)
    assert f"{path}: " in message
    assert "truncated" in message
    assert message.endswith("run: dvc repro encode@sft")
    path.unlink()
    assert open_error(folder) == f"{path}: no such file; run: dvc repro encode@sft"


def test_docs_cut_within_a_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "train")
    (folder / "docs.jsonl").write_bytes((folder / "docs.jsonl").read_bytes()[:-5])
    assert "docs.jsonl: damaged" in open_error(folder)


def test_offsets_of_the_right_size_but_wrong(tmp_path: Path) -> None:
    folder = write(tmp_path / "train")
    for wrong in ([0, 6, 4, 9], [1, 4, 6, 9], [0, 4, 6, 8]):
        (folder / "offsets.bin").write_bytes(np.array(wrong, dtype="<u8").tobytes())
        assert "offsets.bin: not a rising sequence from 0 to 9" in open_error(folder)


def test_missing_and_foreign_meta(tmp_path: Path) -> None:
    assert open_error(tmp_path / "no") == f"{tmp_path}/no/meta.json: no such file; run: dvc repro encode"
    folder = write(tmp_path / "train")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "dtype": "f32"}))
    assert "dtype 'f32' is not one of u16, u32" in open_error(folder)
    (folder / "meta.json").write_text('{"a": 1}')
    assert "meta.json: no key 'dtype', not written by stage encode" in open_error(folder)


def test_another_tokenizer(tmp_path: Path) -> None:
    meta = EncodedSet.open(write(tmp_path / "train")).meta
    check_tokenizer(meta, "91bc" * 16, "data/encoded/sft")
    with pytest.raises(ValueError) as caught:
        check_tokenizer(meta, "3f2a" * 16, "data/encoded/sft/train/meta.json")
    assert str(caught.value) == (
        "data/encoded/sft/train/meta.json: made with tokenizer 91bc91bc91bc…, "
        "but models/tokenizer is 3f2a3f2a3f2a…; run: dvc repro encode@sft"
    )
    with pytest.raises(ValueError, match=r"models/base/tokenizer is 3f2a.*run: dvc repro pack@sft"):
        check_tokenizer({**meta, "n_rows": 3}, "3f2a" * 16, "data/packed/sft", "models/base/tokenizer")


def test_nothing_and_nonsense_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no documents to encode; the train split of 'sft' is empty"):
        write(tmp_path / "empty", docs=[])
    with pytest.raises(ValueError, match="document 'x' has 2 ids, 1 mask values"):
        write(tmp_path / "uneven", docs=[([1, 2], [1], {"id": "x"})])
    for folder in ("empty", "uneven"):
        assert not list((tmp_path / folder).iterdir())
