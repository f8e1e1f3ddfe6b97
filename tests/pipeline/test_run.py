"""The tiny preset as a user runs it: the whole graph, then edits, remotes, experiments and accidents."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import closure
import pytest
from conftest import Checkout, copy_checkout

from llm.rerun import load_stages, reruns
from llm.runtime import hash_files

pytestmark = pytest.mark.slow

BEFORE_PRETRAIN = {
    "download", "dedup", "filter", "analyze", "tokenizer", "encode@pretrain", "encode@sft", "encode@preference",
    "encode@prompts", "pack@pretrain", "pack@sft",
}  # fmt: skip
AFTER_SFT = {
    "reward",
    "align",
    "eval@sft",
    "eval@aligned",
    "quantize@rtn_int8",
    "quantize@gptq_int4",
    "report",
}
ALL = BEFORE_PRETRAIN | {"pretrain", "sft", "eval@base"} | AFTER_SFT


def clone(pipeline: Checkout, path: Path) -> Checkout:
    """A git clone with DVC data copied, as a colleague would have after `dvc pull`."""
    copy = Checkout(path / "repo", path / "work")
    shutil.copytree(pipeline.path, copy.path, symlinks=True)
    return copy


def metric(checkout: Checkout, name: str) -> dict:
    return json.loads((checkout.path / "metrics" / f"{name}.json").read_text())


def test_first_run_runs_everything_and_status_is_clean(pipeline):
    assert pipeline.ran(pipeline.first_output) == ALL
    assert "up to date" in pipeline.run("dvc", "status")
    again = pipeline.run("dvc", "repro")
    assert pipeline.ran(again) == set()
    assert "Data and pipelines are up to date" in again


def test_every_metric_is_a_finite_number_and_the_model_has_learned(pipeline):
    files = sorted((pipeline.path / "metrics").rglob("*.json"))
    assert len(files) >= 16
    for file in files:
        for value in numbers(json.loads(file.read_text())):
            assert math.isfinite(value), file
    with open(pipeline.path / "plots" / "pretrain.csv") as handle:
        header, *rows = [line.rstrip("\n").split(",") for line in handle]
    losses = [float(row[header.index("loss")]) for row in rows]
    assert losses[-1] < losses[0] - 1.0
    assert metric(pipeline, "eval/base")["bpb"] != metric(pipeline, "eval/sft")["bpb"]


def numbers(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


def test_the_models_speak(pipeline):
    for model in ("base", "sft", "aligned", "quantized/gptq_int4"):
        text = pipeline.run(
            "llm", "generate", f"models/{model}", "--prompt", "Once upon", "--max-new-tokens", "8"
        )
        assert text.strip(), model
    assert "parameters" in pipeline.run("llm", "inspect", "models/aligned").lower()
    assert (pipeline.path / "report" / "index.html").stat().st_size > 10_000
    assert "base" in (pipeline.path / "metrics" / "report.md").read_text()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("pretrain.optimizer.rest.lr", "0.005", {"pretrain", "sft", "eval@base"} | AFTER_SFT),
        ("sft.steps", "7", {"sft"} | AFTER_SFT),
        ("reward.steps", "3", {"reward", "report"}),
        (
            "align.dpo.beta",
            "0.2",
            {"align", "eval@aligned", "quantize@rtn_int8", "quantize@gptq_int4", "report"},
        ),
        ("align.grpo.kl_beta", "0.2", set()),
        ("eval.rules.max_new_tokens", "9", {"eval@base", "eval@sft", "eval@aligned", "report"}),
        ("analyze.top_words", "10", {"analyze", "report"}),
        ("track.mode", "disabled", set()),
        ("download.validation_frac", "0.2", ALL),
    ],
)
def test_changing_one_key_runs_exactly_the_stages_of_the_table(pipeline, tmp_path, key, value, expected):
    before = (pipeline.path / "params.yaml").read_text()
    try:
        pipeline.set_param(key, value)
        planned = pipeline.ran(pipeline.run("dvc", "repro", "--dry", "--force-downstream"))
        assert planned == expected
        if expected:
            assert set(reruns(load_stages(pipeline.path), key)) == expected
    finally:
        (pipeline.path / "params.yaml").write_text(before)


def test_only_the_chosen_variant_counts(pipeline):
    """Adding or editing what params.yaml does not choose runs nothing; editing the chosen file runs its stages."""
    new = pipeline.path / "llm" / "nn" / "mixers" / "echo.py"
    shutil.copy(pipeline.path / "llm" / "nn" / "mixers" / "gqa.py", new)
    unchosen = pipeline.path / "llm" / "nn" / "position" / "none.py"
    chosen = pipeline.path / "llm" / "nn" / "position" / "rope.py"
    texts = {path: path.read_text() for path in (unchosen, chosen)}
    try:
        unchosen.write_text(texts[unchosen] + "\n# edited\n")
        assert pipeline.ran(pipeline.run("dvc", "repro", "--dry", "--force-downstream")) == set()
        chosen.write_text(texts[chosen] + "\n# edited\n")
        assert (
            pipeline.ran(pipeline.run("dvc", "repro", "--dry", "--force-downstream"))
            == {"pretrain", "sft", "eval@base"} | AFTER_SFT
        )
    finally:
        new.unlink()
        for path, text in texts.items():
            path.write_text(text)


def test_two_runs_from_nothing_give_equal_locks(pipeline, tmp_path):
    second = Checkout(tmp_path / "repo", tmp_path / "work")
    copy_checkout(second.path)
    (second.path / "dvc.lock").unlink(missing_ok=True)
    second.run("llm", "preset", "tiny")
    second.run("git", "init", "-q", "-b", "main")
    second.run("git", "add", "-A")
    second.run("git", "commit", "-qm", "start")
    second.run("dvc", "repro", PYTHONHASHSEED="12345")
    assert (second.path / "dvc.lock").read_text() == (pipeline.path / "dvc.lock").read_text()


def test_remote_fresh_clone_and_one_changed_key(pipeline, tmp_path):
    remote = tmp_path / "remote"
    source = clone(pipeline, tmp_path / "a")
    source.run("dvc", "remote", "modify", "--local", "storage", "url", str(remote))
    source.run("dvc", "push", "-q")
    fresh = Checkout(tmp_path / "b" / "repo", tmp_path / "b" / "work")
    fresh.path.parent.mkdir()
    subprocess.run(["git", "clone", "-q", str(source.path), str(fresh.path)], check=True)
    fresh.run("dvc", "remote", "modify", "--local", "storage", "url", str(remote))
    fresh.set_param("align.dpo.beta", "0.3")
    output = fresh.run("dvc", "repro", "--pull", "--allow-missing")
    assert fresh.ran(output) == {"align", "eval@aligned", "quantize@rtn_int8", "quantize@gptq_int4", "report"}
    assert not (fresh.path / "data" / "dedup").exists()  # nothing that was not needed came over the wire
    diff = fresh.run("dvc", "params", "diff")
    assert "align.dpo.beta" in diff
    assert "0.3" in diff
    assert "metrics/align.json" in fresh.run("dvc", "metrics", "diff")
    fresh.run("dvc", "plots", "diff", "--targets", "plots/align.csv", "-o", str(tmp_path / "plots"))
    assert (tmp_path / "plots" / "index.html").exists()


def test_experiment_run_changes_one_key_and_is_shown(pipeline, tmp_path):
    copy = clone(pipeline, tmp_path)
    output = copy.run("dvc", "exp", "run", "-n", "short", "-S", "reward.steps=3")
    assert copy.ran(output) == {"reward", "report"}
    table = copy.run("dvc", "exp", "show", "--csv", "--no-pager")
    assert "short" in table
    assert "reward.steps" in table


# ---------------------------------------------------------------- accidents


def dvc_repro(checkout: Checkout) -> subprocess.Popen:
    return subprocess.Popen(
        ["dvc", "repro", "-s", "pretrain"], cwd=checkout.path, env=checkout.env, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(condition, seconds=180):
    t0 = time.monotonic()
    while not condition():
        assert time.monotonic() - t0 < seconds, "waited in vain"
        time.sleep(0.02)


def trainers(checkout: Checkout) -> list[int]:
    """Processes of `python -m stages.pretrain` working in this checkout."""
    found = []
    for proc in Path("/proc").iterdir():
        try:
            words = (proc / "cmdline").read_bytes().split(b"\0")
            if (
                proc.name.isdigit()
                and b"stages.pretrain" in words
                and os.readlink(proc / "cwd") == str(checkout.path)
            ):
                found.append(int(proc.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="session")
def long_run(pipeline, tmp_path_factory) -> Checkout:
    """Pretraining of several seconds, finished once without interruption: what the killed runs must equal."""
    copy = clone(pipeline, tmp_path_factory.mktemp("long"))
    copy.set_param("pretrain.steps", "400")
    copy.run("dvc", "repro", "-s", "pretrain")
    return copy


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_pretraining_leaves_no_orphan_and_resumes_to_the_same_bytes(long_run, tmp_path, number):
    copy = clone(long_run, tmp_path)
    wanted = hash_files(long_run.path / "models" / "base")
    shutil.rmtree(copy.path / ".dvc" / "cache")
    (copy.path / "dvc.lock").unlink()
    shutil.rmtree(copy.path / "models" / "base")
    process = dvc_repro(copy)
    states = copy.path.parent / "work" / "pretrain"
    wait_for(lambda: list(states.glob("*/latest.pt")))
    if number == signal.SIGINT:  # a terminal sends it to the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(timeout=60)
    assert process.returncode != 0
    wait_for(lambda: not trainers(copy), 30)
    assert not (copy.path / "models" / "base").exists()
    assert list(states.glob("*/latest.pt"))
    copy.run("dvc", "repro", "-s", "pretrain")
    assert hash_files(copy.path / "models" / "base") == wanted
    assert not list(states.glob("*/latest.pt"))


def stage_command(checkout: Checkout, name: str) -> list[str]:
    """The command line dvc.yaml gives a stage."""
    import yaml

    lock = yaml.safe_load((checkout.path / "dvc.lock").read_text())
    return lock["stages"][name]["cmd"].replace("python", sys.executable, 1).split()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def forget_tokenizer(checkout: Checkout) -> None:
    meta = checkout.path / "data" / "packed" / "pretrain" / "meta.json"
    meta.write_text(meta.read_text().replace('"tokenizer_hash": "', '"tokenizer_hash": "00'))


ACCIDENTS = {
    "typo": ("pretrain", lambda c: c.path.joinpath("params.yaml").write_text(
        (c.path / "params.yaml").read_text().replace("grad_clip:", "grad_clipp:", 1)), "did you mean 'grad_clip'"),
    "truncated rows": ("pretrain", lambda c: truncate(c.path / "data/packed/pretrain/rows.bin"), "rows.bin"),
    "truncated shard": ("encode@pretrain", lambda c: truncate(c.path / "data/clean/train.jsonl"), "train.jsonl"),
    "corrupt model": ("sft", lambda c: truncate(c.path / "models/base/model.safetensors"), "model.safetensors"),
    "other tokenizer": ("pretrain", forget_tokenizer, "tokenizer"),
    "empty corpus": ("filter", lambda c: c.set_param("filter.quality.min_words", "90000"), "filter"),
    "nan loss": ("pretrain", lambda c: c.set_param("pretrain.optimizer.rest.lr", "1.0e+30"), "nan"),
    "missing input": ("pack@pretrain", lambda c: shutil.rmtree(c.path / "data/encoded/pretrain"), "dvc repro"),
}  # fmt: skip


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_is_one_clear_line_and_loses_nothing(pipeline, tmp_path, accident):
    name, cause, clue = ACCIDENTS[accident]
    copy = clone(pipeline, tmp_path)
    command = stage_command(copy, name)
    outs = [Path(command[command.index("--out") + 1])]
    cause(copy)
    before = [hash_files(copy.path / out) for out in outs]
    output = copy.run(*command, code=2, DVC_STAGE=name)
    last = [line for line in output.splitlines() if line.startswith(f"{name}: ")]
    assert last, output
    assert clue in "\n".join(last), output
    assert "Traceback" not in output
    assert [hash_files(copy.path / out) for out in outs] == before
    assert not list(copy.path.rglob("*.part"))


def test_a_full_disk_is_one_clear_line_and_keeps_the_old_result(pipeline, tmp_path):
    """A file-size limit stands in for the full disk: the write fails in the middle of the same call."""
    copy = clone(pipeline, tmp_path)
    command = stage_command(copy, "pack@pretrain")
    before = hash_files(copy.path / "data" / "packed" / "pretrain")
    shell = f"ulimit -f 8; trap '' XFSZ; exec {' '.join(command)}"
    output = copy.run("bash", "-c", shell, code=2, DVC_STAGE="pack")
    assert "File too large" in output
    assert "Traceback" not in output
    assert hash_files(copy.path / "data" / "packed" / "pretrain") == before


def test_commands_on_missing_foreign_and_half_written_models(pipeline, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "foreign" / "model.safetensors").write_bytes(b"x")
    shutil.copytree(pipeline.path / "models" / "base", tmp_path / "half")
    truncate(tmp_path / "half" / "model.safetensors")
    for command in (["generate", "--prompt", "a"], ["inspect"], ["chat"]):
        for folder in ("nowhere", "foreign", "half"):
            output = pipeline.run("llm", command[0], str(tmp_path / folder), *command[1:], code=2)
            assert folder in output
            assert "Traceback" not in output


def test_stages_are_named_in_the_readme_in_order():
    readme = (closure.ROOT / "README.md").read_text()
    places = [readme.find(stage) for stage in closure.STAGES]
    assert -1 not in places


def test_plots_name_columns_that_exist(pipeline):
    import yaml

    for stage in yaml.safe_load((pipeline.path / "dvc.yaml").read_text())["stages"].values():
        for plot in stage.get("plots", []):
            [(path, facts)] = plot.items()
            if path.endswith(".csv"):
                header = (pipeline.path / path).read_text().split("\n", 1)[0].split(",")
                assert {facts["x"], facts["y"]} <= set(header), path
