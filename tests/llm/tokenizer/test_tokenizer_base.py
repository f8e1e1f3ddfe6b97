import json
from pathlib import Path

import pytest

from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer, load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = bpe.Config(vocab_size=300, min_frequency=2, special_tokens=())
    train_tokenizer(bpe.build(config), ["the duck and the lake " * 20], tmp_path / "tokenizer", "corpus")
    return tmp_path / "tokenizer"


def test_half_a_character_decodes_to_the_replacement_character(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("鸭")
    assert len(ids) == 3  # no Chinese in the corpus: three single bytes
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    assert tokenizer.decode(ids) == "鸭"


def test_no_prefix_space_is_added(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("duck")) == "duck"
    assert tokenizer.encode("duck") != tokenizer.encode(" duck")


@pytest.mark.parametrize("ids", [[0, 300], [-1]])
def test_ids_outside_the_vocabulary(folder: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=f"tokenizer: id {ids[-1]} is outside the vocabulary of"):
        load_tokenizer(folder).decode(ids)


def test_half_a_surrogate_pair_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="text 1 has half a surrogate pair at character 2"):
        load_tokenizer(folder).encode_batch(["fine", "ab\ud83d"])
    with pytest.raises(ValueError, match="text 0 is a NoneType"):
        load_tokenizer(folder).encode_batch([None])  # type: ignore[list-item]


def load_error(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_tokenizer(folder)
    assert "run: dvc repro" in str(caught.value) or "(dvc repro)" in str(caught.value)
    return str(caught.value)


def test_missing_folder_and_files(folder: Path) -> None:
    assert "nowhere: no such tokenizer folder" in load_error(folder / "nowhere")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file" in load_error(folder)
    (folder / "meta.json").unlink()
    assert "meta.json: no such file" in load_error(folder)


def test_truncated_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert "tokenizer.json: damaged or truncated" in load_error(folder)


def test_foreign_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"model_type": "gpt2"}')
    assert "format is None, expected 'llm-from-scratch/tokenizer/1'" in load_error(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vocab_size", 5, "meta.json says 5"),
        ("special_tokens", {"<|pad|>": 7}, r"<|pad|> has id 1, meta.json says 7"),
    ],
)
def test_meta_that_does_not_match(folder: Path, key: str, value: object, message: str) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, key: value}))
    assert message in load_error(folder)


def test_hash_changes_with_the_content(folder: Path) -> None:
    before = load_tokenizer(folder).hash
    (folder / "meta.json").write_text((folder / "meta.json").read_text() + "\n")
    after: Tokenizer = load_tokenizer(folder)
    assert after.hash != before
