"""The stages dedup, filter and analyze, one after the other, as dvc calls them."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from llm import registry
from llm.data.deduplicate import DedupParams
from llm.data.document import Document, read_documents, write_documents
from llm.data.filter import FilterParams
from llm.runtime import hash_files

ON = """\
  normalize: {mojibake: own}
  markup: {kind: html}
  quality: {kind: quality, min_words: 10}
  privacy: {kind: pii, max_hits: 5}
"""
ROOT = Path(__file__).resolve().parents[2]
OFF = "".join(
    f"  {field.name}: {{kind: none}}\n" for field in fields(FilterParams) if f" {field.name}:" not in ON
)
OFF_DEDUP = "".join(
    f"  {field.name}: {{kind: none}}\n"
    for field in fields(DedupParams)
    if field.name not in ("exact", "near")
)
PARAMS = f"""\
dedup:
  exact: {{kind: exact}}
  near: {{kind: minhash, threshold: 0.7}}
{OFF_DEDUP}
filter:
{ON}{OFF}
analyze: {{top_words: 5}}
"""
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STEPS = {name: DVC[name]["cmd"].removeprefix("python -m ") for name in ("dedup", "filter", "analyze")}
OUTS = ["data/dedup", "data/clean", "data/dropped", "metrics", "plots"]
RAW = Path("data", "raw", "pretrain")


def stage(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", *line.split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def lay_out(folder: Path) -> None:
    (folder / "params.yaml").write_text(PARAMS)
    tales = [
        f"Once the duck number {i} met the fox number {i * i} and they swam to the far shore."
        for i in range(6)
    ]
    texts = [
        *tales,
        tales[2].upper(),
        "too short",
        "Write to duck@lake.org or fox@wood.org about the far shore and the moon.",
    ]
    for split, chosen in (("train", texts), ("validation", tales[:1])):
        documents = [
            Document(id=f"{split}{i}", source="s", kind="tales", licence="PD", work=f"{split}{i}", text=text)
            for i, text in enumerate(chosen)
        ]
        write_documents(folder / RAW / f"{split}.jsonl", documents)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("clean") for _ in range(2)]
    for folder in folders:
        lay_out(folder)
        for line in STEPS.values():
            done = stage(folder, line)
            assert done.returncode == 0, done.stderr[-2000:]
            assert "torch" not in {row.split("|")[-1].strip() for row in done.stderr.splitlines()}
    return folders


def test_what_is_left(runs: list[Path]) -> None:
    kept = {document.id: document.text for document in read_documents(runs[0] / "data/clean/train.jsonl")}
    assert list(kept) == ["train1", "train2", "train3", "train4", "train5", "train8"]
    assert kept["train8"].startswith("Write to <EMAIL> or <EMAIL> about")
    copied, original = (runs[0] / folder / "validation.jsonl" for folder in ("data/clean", RAW))
    assert copied.read_bytes() == original.read_bytes()


def test_the_metrics_agree_from_stage_to_stage(runs: list[Path]) -> None:
    dedup, filter_, analyze = (
        json.loads((runs[0] / f"metrics/{name}.json").read_text()) for name in ("dedup", "filter", "analyze")
    )
    assert {reason: row["docs"] for reason, row in dedup["train"]["reasons"].items()} == {
        "exact_duplicate": 1,
        "in_validation": 1,
    }
    assert dedup["train"]["kept"] == filter_["train"]["in"]
    assert filter_["train"]["reasons"]["too_short"]["docs"] == 1
    assert filter_["train"]["kept"]["docs"] == analyze["corpora"]["clean"]["all"]["docs"]
    assert filter_["train"]["kept"]["bytes"] == analyze["corpora"]["clean"]["all"]["bytes"]
    assert dedup["train"]["in"]["docs"] == analyze["corpora"]["raw"]["all"]["docs"]
    assert analyze["dropped"]["dedup"]["in_validation"]["tales"]["docs"] == 1


def test_two_runs_give_equal_bytes(runs: list[Path]) -> None:
    one, two = (hash_files(*(folder / out for out in OUTS)) for folder in runs)
    assert one == two


def test_an_emptied_corpus_is_one_line_and_leaves_no_output(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS.replace("min_words: 10", "min_words: 1000"))
    done = stage(tmp_path, STEPS["filter"].replace("--input data/dedup", f"--input {RAW}"))
    assert done.returncode == 2
    last = [line for line in done.stderr.splitlines() if not line.startswith("import time:")][-1]
    assert last.split("\r")[-1].strip() == (
        "filter: no document is left of 9; filter.quality dropped most (9 as 'too_short'); "
        "loosen its limits in params.yaml"
    )
    assert not any((tmp_path / out).exists() for out in ("data/clean", "data/dropped", "metrics"))


def test_a_typo_in_the_params_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "params.yaml").write_text(
        PARAMS.replace("threshold", "treshold").replace("kind: exact", "kind: exakt")
    )
    done = stage(tmp_path, STEPS["dedup"])
    assert done.returncode == 2
    assert "params.yaml.dedup.near.treshold: unknown key; did you mean 'threshold'?" in done.stderr
    assert (
        f"params.yaml.dedup.exact.kind: 'exakt' is not one of {', '.join(registry.kinds('llm.data.dedup'))}; "
        "did you mean 'exact'?" in done.stderr
    )
