"""The stages tokenizer, encode and pack, one after the other, as dvc calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.data.document import SPLITS, Document, write_documents
from llm.data.encoded import EncodedSet
from llm.data.packed import PackedRows
from llm.tokenizer.base import load_tokenizer

PARAMS = """\
seed: 1
tokenizer: {kind: bpe, vocab_size: 300, min_frequency: 2, special_tokens: []}
pack: {seq_len: 16, mix: {kind: none}, chunk: {kind: fixed}, strategy: {kind: best_fit}}
"""
STEPS = [
    "tokenizer --input clean --out tokenizer --metrics metrics/tokenizer.json",
    "encode --set pretrain --input clean --tokenizer tokenizer --out encoded --metrics metrics/encode.json",
    "pack --set pretrain --input encoded --tokenizer tokenizer --out packed --metrics metrics/pack.json",
]


def stage(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"stages.{line.split()[0]}", *line.split()[1:]]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    (folder / "params.yaml").write_text(PARAMS)
    for split in SPLITS:
        texts = [f"The duck number {i} swims on the lake. " * (i % 5 + 1) for i in range(20)]
        documents = [
            Document(id=f"{split}{i}", source="s", kind="tales", licence="PD", work=str(i), text=text)
            for i, text in enumerate(texts)
        ]
        write_documents(folder / "clean" / f"{split}.jsonl", documents)
    for line in STEPS:
        done = stage(folder, line)
        assert done.returncode == 0, done.stderr
    return folder


def test_files_and_metrics(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    packed = PackedRows.open(folder / "packed")
    assert packed.meta["tokenizer_hash"] == tokenizer.hash
    metrics = {
        name: json.loads((folder / f"metrics/{name}.json").read_text())
        for name in ("tokenizer", "encode", "pack")
    }
    assert metrics["tokenizer"]["vocab_size"] == tokenizer.vocab_size
    assert metrics["tokenizer"]["validation"]["bytes_per_token"] > 2
    encoded = EncodedSet.open(folder / "encoded" / "train")
    assert metrics["pack"]["n_scored"] == metrics["encode"]["train"]["n_scored"] == encoded.loss_mask.sum()
    assert metrics["encode"]["train"]["n_tokens"] == metrics["tokenizer"]["train"]["n_tokens"] + 2 * 20


def test_equal_input_gives_equal_bytes(folder: Path) -> None:
    names = ["tokenizer", "encoded/train", "packed"]
    files = [file for name in names for file in sorted((folder / name).glob("*.*"))] + sorted(
        folder.glob("metrics/*")
    )
    before = {file: file.read_bytes() for file in files}
    assert len(before) == 2 + 5 + 4 + 3
    for line in STEPS:
        assert stage(folder, line).returncode == 0
    assert {file: file.read_bytes() for file in files} == before


def test_one_line_and_exit_code_2(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/train.jsonl").write_text("")
    for line, expected in zip(
        STEPS,
        (
            "tokenizer: clean/train.jsonl: empty corpus (0 documents, no text)",
            "encode: tokenizer: no such tokenizer folder; run: dvc repro tokenizer",
            "pack: encoded/train/meta.json: no such file; run: dvc repro encode",
        ),
        strict=True,
    ):
        done = stage(tmp_path, line)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].strip().startswith(expected)
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "params.yaml"]


def test_json_stages_do_not_import_torch(folder: Path) -> None:
    code = "import sys, stages.tokenizer, stages.encode, stages.pack; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
