"""Every backend works offline, without login, and what was logged can be found in what it wrote."""

import json
import subprocess
import sys
import time

import pytest

from llm.train.loggers.base import mode
from llm.train.tracking import Settings, Tracker


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no login of this machine's user
    for name in ("WANDB_API_KEY", "WANDB_MODE", "SWANLAB_API_KEY", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)


def log_a_run(backend, capfd, start=0, chosen="offline"):
    settings = Settings(backends=("jsonl", backend), mode=chosen)
    with Tracker("pretrain", start=start, settings=settings) as tracker:
        assert backend in tracker.backends
        for step in range(start + 1, start + 4):
            tracker.log(step, {"loss": 7.125 / step, "val_bpb": 1.5})
        tracker.text(start + 3, "samples", "once upon a time")
        assert backend in tracker.backends
    assert "track:" not in capfd.readouterr().err


def eventually(condition, seconds=20.0):
    """True as soon as `condition()` is; wandb's writer process may lag behind on a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_tensorboard_writes_events(tmp_path, capfd):
    log_a_run("tensorboard", capfd)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "work" / "logs" / "tensorboard" / "pretrain"))
    events.Reload()
    values = [(event.step, event.value) for event in events.Scalars("loss")]
    assert values == [(step, pytest.approx(7.125 / step)) for step in (1, 2, 3)]
    assert events.Tags()["tensors"] == ["samples/text_summary"]


def test_wandb_writes_an_offline_run(tmp_path, capfd):
    log_a_run("wandb", capfd)
    [run] = (tmp_path / "work" / "logs" / "wandb").glob("offline-run-*/run-*.wandb")
    assert eventually(lambda: b"val_bpb" in run.read_bytes() and b"7.125" in run.read_bytes())


def test_swanlab_writes_an_offline_run(tmp_path, capfd):
    log_a_run("swanlab", capfd)
    [run] = (tmp_path / "work" / "logs" / "swanlab").glob("run-*/run-*.swanlab")
    assert eventually(lambda: b"val_bpb" in run.read_bytes())


def test_jsonl_is_whole_after_a_resume(tmp_path, capfd):
    log_a_run("jsonl", capfd)
    path = tmp_path / "work" / "logs" / "pretrain.jsonl"
    with open(path, "a", encoding="utf-8") as handle:
        handle.write('{"step": 4, "lo')  # cut short by a crash
    log_a_run("jsonl", capfd, start=2)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == [
        (step, 7.125 / step) for step in (1, 2, 3, 4, 5)
    ]
    log_a_run("jsonl", capfd)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4, "a new run starts a new file"


@pytest.mark.parametrize(
    ("wanted", "environment", "key", "expected"),
    [
        ("offline", "online", "k", "offline"),
        ("online", None, "k", "online"),
        ("online", "offline", "k", "online"),
        ("online", None, None, "offline"),
        ("online", None, "", "offline"),
        ("auto", None, "k", "offline"),
        ("auto", "online", "k", "online"),
        ("auto", "online", None, "offline"),
        ("auto", "disabled", "k", "offline"),
    ],
)
def test_online_needs_both_a_wish_and_a_key(wanted, environment, key, expected):
    assert mode(wanted, environment, key) == expected


def test_backends_import_their_package_alone():
    code = (
        "import sys; import llm.train.loggers.jsonl, llm.train.tracking; "
        "assert not {'wandb', 'swanlab', 'tensorboard', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=__file__.split("/tests/")[0])
