"""The facade: settings are read leniently, a failing backend costs one warning and never the run."""

import json
import sys

import pytest

from llm.train import tracking
from llm.train.loggers import jsonl
from llm.train.tracking import Settings, Tracker, read_settings


@pytest.fixture(autouse=True)
def _work_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path)


def write(text):
    with open("params.yaml", "w", encoding="utf-8") as handle:
        handle.write(text)


@pytest.mark.parametrize(
    ("text", "expected", "warnings"),
    [
        ("track: {backends: [jsonl], mode: offline}", Settings(("jsonl",), "offline"), 0),
        (
            "track: {backends: [wandb, tensorboard], mode: online}",
            Settings(("jsonl", "wandb", "tensorboard"), "online"),
            0,
        ),
        ("track: {backends: wandb, mode: auto}", Settings(("jsonl", "wandb"), "auto"), 0),
        ("seed: 1", Settings(), 0),
        ("track: 3", Settings(), 0),
        ("track: {backends: [wandbb], mode: offline}", Settings(), 1),
        ("track: {backends: [[1]], mode: nowhere}", Settings(), 2),
        ("track: [", Settings(), 1),
    ],
)
def test_settings_are_read_leniently(text, expected, warnings, capsys):
    write(text)
    assert read_settings() == expected
    assert capsys.readouterr().err.count("track") >= warnings


def test_no_params_file_means_jsonl():
    assert read_settings() == Settings(("jsonl",), "offline")


def test_missing_package_is_one_warning_and_jsonl_goes_on(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "llm.train.loggers.wandb", raising=False)
    with Tracker("sft", start=0, settings=Settings(("jsonl", "wandb"))) as tracker:
        assert tracker.backends == ["jsonl"]
        tracker.log(1, {"loss": 2.0})
        tracker.log(2, {"loss": 1.0})
    assert capsys.readouterr().err.count("track: wandb is off for this run") == 1
    lines = logged()
    assert [line["loss"] for line in lines] == [2.0, 1.0]


def logged():
    path = tracking.runtime.work_dir() / "logs" / "sft.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("method", ["log", "text", "close"])
def test_a_backend_that_fails_is_switched_off_once(method, monkeypatch, capsys):
    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonl.JsonlLogger, method, fail)
    with Tracker("sft", start=0, settings=Settings()) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"loss": 1.0})
            tracker.text(step, "samples", "x")
    assert capsys.readouterr().err.count("track: jsonl is off for this run") == 1


def test_only_the_first_process_reports(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Tracker("sft", start=0, settings=Settings()) as tracker:
        tracker.log(1, {"loss": 1.0})
        assert tracker.backends == []
    assert not (tracking.runtime.work_dir() / "logs" / "sft.jsonl").exists()
