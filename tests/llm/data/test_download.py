"""The download stage on three tiny wheels: four sets, one split, all or nothing, the same bytes every time."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_sources import make_hub_folder, make_wheels

from llm.data import download as download_module
from llm.data.document import Document, read_documents
from llm.data.download import SETS, DownloadParams, download, held_out_works
from llm.data.sources import registry as registry_source
from llm.params import from_dict
from llm.runtime import hash_files

ROOT = Path(__file__).resolve().parents[3]
PARAMS: dict[str, Any] = {
    "source": {"kind": "registry", "registry": {"min_chars": 100}},
    "validation_frac": 0.2,
    "chat": {"min_chars": 5},
    "story": {"min_chars": 20, "max_chars": 200},
    "rules": {"min_rank": 0, "max_rank": 100, "min_chars": 10},
    "sft": {
        "train": {"chat": 40, "story": 30, "words": 10, "cloze": 5, "sums": 5},
        "validation": {"chat": 6, "story": 5, "words": 3, "cloze": 2, "sums": 2},
    },
    "preference": {
        "train": {"easy": 12, "hard": 10, "story": 8},
        "validation": {"easy": 4, "hard": 3, "story": 2},
    },
    "prompts": {
        "train": {"words": 9, "cloze": 6, "sums": 5},
        "validation": {"words": 4, "cloze": 3, "sums": 2},
    },
}
EXPECTED = {
    "sft": {"train": {"chat": 40, "story": 30, "rule": 20}, "validation": {"chat": 6, "story": 5, "rule": 7}},
    "preference": {"train": PARAMS["preference"]["train"], "validation": PARAMS["preference"]["validation"]},
    "prompts": {"train": PARAMS["prompts"]["train"], "validation": PARAMS["prompts"]["validation"]},
}


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    monkeypatch.setattr(registry_source, "LOCK", make_wheels(folder))
    monkeypatch.setenv("LLM_WHEEL_DIR", str(folder))
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    return folder


def params(**changes: Any) -> DownloadParams:
    return from_dict(DownloadParams, {**PARAMS, **changes}, where="params.yaml.download")


def records(out: Path) -> Iterator[tuple[str, str, Document]]:
    for name in SETS:
        for split in ("train", "validation"):
            for document in read_documents(out / name / f"{split}.jsonl"):
                yield name, split, document


def test_four_sets_of_the_sizes_asked_for(tmp_path: Path) -> None:
    report = download(params(), seed=1, out=tmp_path / "raw")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == sorted(SETS)
    for name, sizes in EXPECTED.items():
        for split, kinds in sizes.items():
            assert {kind: n["documents"] for kind, n in report[name][split]["kinds"].items()} == kinds
    assert report["missing"] == {}
    assert report["skipped"] == {"chat: fewer than 4 turns": 1}
    ids = [(name, document.id) for name, _, document in records(tmp_path / "raw")]
    assert len(set(ids)) == len(ids)


def test_no_work_is_in_both_splits_of_any_set(tmp_path: Path) -> None:
    download(params(), seed=1, out=tmp_path)
    works: dict[str, set[str]] = {"train": set(), "validation": set()}
    texts: dict[str, str] = {"train": "", "validation": ""}
    for name, split, document in records(tmp_path):
        works[split].add(document.work)
        if name == "pretrain":
            texts[split] += document.text + "\n"
    assert not works["train"] & works["validation"]
    # and what the derived sets quote stands in their own half of the text
    for name, split, document in records(tmp_path):
        if name == "preference":
            other = texts["validation" if split == "train" else "train"]
            for answer in (document.data["chosen"], document.data["rejected"]):
                for sentence in answer.split(". "):
                    assert sentence in texts[split]
                assert answer not in other


def test_the_metrics_count_what_was_written(tmp_path: Path) -> None:
    report = download(params(), seed=1, out=tmp_path)
    documents = list(read_documents(tmp_path / "pretrain" / "train.jsonl"))
    counts = report["pretrain"]["train"]
    assert counts["documents"] == len(documents)
    assert counts["works"] == len({document.work for document in documents})
    assert counts["bytes"] == sum(len(document.text.encode()) for document in documents)
    for group in ("kinds", "sources"):
        for key in ("documents", "bytes", "works"):
            assert sum(part[key] for part in counts[group].values()) == counts[key]
    pair = next(read_documents(tmp_path / "preference" / "train.jsonl"))
    words = [pair.data["chosen"], pair.data["rejected"], *(m["content"] for m in pair.data["prompt"])]
    assert download_module.text_bytes(pair) == sum(len(text.encode()) for text in words)


def test_the_pretraining_set_keeps_text_and_origin_but_not_the_turns(tmp_path: Path) -> None:
    download(params(), seed=1, out=tmp_path)
    chats = [d for d in read_documents(tmp_path / "pretrain" / "train.jsonl") if d.kind == "chat"]
    assert all(document.text.startswith("A: ") for document in chats)
    assert {key for document in chats for key in document.data} == {"topic", "rating"}


def test_equal_inputs_give_equal_bytes_in_any_process(tmp_path: Path, wheels: Path) -> None:
    report = download(params(), seed=1, out=tmp_path / "a")
    code = (
        "import sys, json, pathlib; sys.path[:0] = sys.argv[1:3]\n"
        "import test_download as t\n"
        "from llm.data.sources import registry\n"
        "registry.LOCK = pathlib.Path(sys.argv[3]) / 'registry.lock'\n"
        "print(json.dumps(t.download(t.params(), seed=1, out=pathlib.Path(sys.argv[4]))))\n"
    )
    arguments = [str(Path(__file__).parent), str(ROOT / "tests"), str(wheels), str(tmp_path / "b")]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == report
    assert hash_files(tmp_path / "a") == hash_files(tmp_path / "b")


def test_the_seed_moves_the_split_and_the_tasks(tmp_path: Path) -> None:
    download(params(), seed=1, out=tmp_path / "a")
    download(params(), seed=2, out=tmp_path / "b")
    for name in SETS:
        assert hash_files(tmp_path / "a" / name) != hash_files(tmp_path / "b" / name)


def test_asking_for_more_of_one_family_changes_no_other(tmp_path: Path) -> None:
    more = {**PARAMS["sft"], "train": {**PARAMS["sft"]["train"], "chat": 50}}
    download(params(), seed=1, out=tmp_path / "a")
    download(params(sft=more), seed=1, out=tmp_path / "b")
    for name in ("pretrain", "preference", "prompts"):
        assert hash_files(tmp_path / "a" / name) == hash_files(tmp_path / "b" / name)
    few, many = ([d.id for d in read_documents(tmp_path / run / "sft/train.jsonl")] for run in "ab")
    assert [id for id in many if id in set(few)] == few
    assert len(many) == len(few) + 10


def test_what_the_corpus_cannot_give_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = {**PARAMS["preference"], "validation": {"easy": 4, "hard": 3, "story": 5000}}
    report = download(params(preference=greedy), seed=1, out=tmp_path)
    made = report["preference"]["validation"]["kinds"]["story"]["documents"]
    assert report["missing"] == {"preference/story/validation": 5000 - made}
    assert f"preference/story/validation: 5000 asked for, {made} made" in capsys.readouterr().err


def test_an_error_leaves_the_old_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download(params(), seed=1, out=tmp_path / "raw")
    before = hash_files(tmp_path / "raw")
    nothing = {
        "train": dict.fromkeys(("words", "cloze", "sums"), 0),
        "validation": PARAMS["prompts"]["validation"],
    }
    with pytest.raises(ValueError, match=r"download\.prompts\.train: the set would be empty"):
        download(params(prompts=nothing), seed=2, out=tmp_path / "raw")
    assert hash_files(tmp_path / "raw") == before
    assert not any(path.is_file() for path in (tmp_path / "work").rglob("*"))


def test_an_empty_corpus_says_why(tmp_path: Path) -> None:
    options = {"kinds": ["tales"], "min_chars": 100_000}
    with pytest.raises(ValueError, match=r"no document is left \(19 tales: shorter than 100000 characters\)"):
        download(params(source={"kind": "registry", "registry": options}), seed=1, out=tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_text_alone_is_enough_for_all_sets(tmp_path: Path) -> None:
    stories = [
        document.text
        for document in registry_source.Registry(
            registry_source.Config(kinds=("tales",), min_chars=100)
        ).documents()
    ]
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in stories), encoding="utf-8"
    )
    source = {"kind": "file", "file": {"paths": [str(tmp_path / "*.jsonl")], "kind": "stories"}}
    report = download(params(source=source), seed=1, out=tmp_path / "raw")
    assert {kind: n["documents"] for kind, n in report["sft"]["train"]["kinds"].items()} == {
        "story": 30,
        "rule": 20,
    }
    assert set(report["preference"]["train"]["kinds"]) == {"story"}
    assert report["prompts"]["train"]["documents"] == 20
    assert report["missing"]["sft/chat/train"] == 40


def test_one_work_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Only one. " * 50, encoding="utf-8")
    source = {"kind": "file", "file": {"paths": [str(tmp_path / "one.txt")]}}
    with pytest.raises(ValueError, match="one work only"):
        download(params(source=source), seed=1, out=tmp_path / "raw")


def test_ready_made_sets_of_the_hub_replace_the_made_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    tales = registry_source.Registry(registry_source.Config(kinds=("tales",), min_chars=100)).documents()
    user = {"role": "user", "content": "Hi"}
    talks = [{"messages": [user, {"role": "assistant", "content": f"Hello {n}"}]} for n in range(10)]
    pairs = [{"prompt": "Hi", "chosen": f"Hello {n}", "rejected": "No"} for n in range(10)]
    rows = {"tales": [{"text": tale.text} for tale in tales], "talks": talks, "pairs": pairs}
    path = str(make_hub_folder(tmp_path / "repository", rows))
    hub = {
        "path": path,
        "name": "tales",
        "split": "train",
        "sft": {"path": path, "name": "talks", "split": "train"},
        "preference": {"path": path, "name": "pairs", "split": "train"},
    }
    report = download(params(source={"kind": "hub", "hub": hub}), seed=1, out=tmp_path / "raw")
    assert {kind: n["documents"] for kind, n in report["sft"]["train"]["kinds"].items()} == {
        "chat": 8,
        "rule": 20,
    }
    assert {kind: n["documents"] for kind, n in report["preference"]["train"]["kinds"].items()} == {"pair": 8}
    both = {
        split: {
            d.data["chosen"] for _, s, d in records(tmp_path / "raw") if s == split and "chosen" in d.data
        }
        for split in ("train", "validation")
    }
    assert both["train"] | both["validation"] == {f"Hello {n}" for n in range(10)}
    assert not both["train"] & both["validation"]


def test_tasks_hold_a_bounded_sample_of_a_large_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "TASK_DOCUMENTS", 4)
    report = download(params(), seed=1, out=tmp_path)
    assert report["sft"]["train"]["kinds"]["chat"]["works"] <= 4
    assert report["pretrain"]["train"]["kinds"]["chat"]["works"] > 30


# ---------------------------------------------------------------- the split


def test_held_out_works_are_a_share_of_each_kind_and_never_all() -> None:
    works = [("a", f"a{n}") for n in range(40)] + [("b", f"b{n}") for n in range(3)] + [("c", "only")]
    held_out = held_out_works(works, seed=3, validation_frac=0.1)
    assert {kind: sum(work.startswith(kind) for work in held_out) for kind in "ab"} == {"a": 4, "b": 1}
    assert "only" not in held_out


def test_the_order_of_the_works_does_not_matter_and_their_hash_does() -> None:
    works = [("a", f"a{n}") for n in range(10)]
    held_out = held_out_works(works, seed=1337, validation_frac=0.2)
    assert held_out == held_out_works(reversed(works), seed=1337, validation_frac=0.2)
    # for n in range(10): sha256(f"1337:a{n}") -> the two smallest digests
    assert held_out == {"a1", "a8"}
    # a new work takes at most its own place
    assert len(held_out - held_out_works([*works, ("a", "new")], seed=1337, validation_frac=0.2)) <= 1


# ---------------------------------------------------------------- the stage


def run_stage(folder: Path, parameters: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    command = [sys.executable, "-m", "stages.download", "--out", "raw", "--metrics", "metrics/download.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_stage_writes_the_sets_and_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("---\n".join(f"{t}\n" for t in story_lines()), encoding="utf-8")
    source = {"kind": "file", "file": {"paths": ["mine.txt"], "separator": "---"}}
    done = run_stage(tmp_path, {"seed": 1, "download": {**PARAMS, "source": source}, "other": {"section": 1}})
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "metrics/download.json").read_text(encoding="utf-8"))
    assert report["pretrain"]["train"]["documents"] + report["pretrain"]["validation"]["documents"] == 12
    assert sum(1 for _ in records(tmp_path / "raw")) == sum(
        report[name][s]["documents"] for name in SETS for s in report[name]
    )


def test_a_wheel_with_another_hash_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    # the stage reads the real lock, so the small wheels are the wrong ones
    done = run_stage(tmp_path, {"seed": 1, "download": PARAMS})
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("download: ")
    assert "differs from" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "raw").exists()
    assert not (tmp_path / "metrics").exists()


def test_a_typo_in_the_params_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    wrong = {**PARAMS, "source": {"kind": "registri", "registry": {}}, "validation_fraction": 0.1}
    done = run_stage(tmp_path, {"seed": 1, "download": wrong})
    assert done.returncode == 2
    assert "'registri' is not one of file, hub, registry; did you mean 'registry'?" in done.stderr
    assert "validation_fraction: unknown key; did you mean 'validation_frac'?" in done.stderr


def story_lines() -> list[str]:
    tales = registry_source.Registry(registry_source.Config(kinds=("tales",), min_chars=100))
    return [document.text for document in tales.documents()][:12]
