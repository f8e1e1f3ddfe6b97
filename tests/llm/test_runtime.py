"""Atomic outputs, deterministic files, one-line errors, signals."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from llm import runtime


def test_atomic_file_leaves_the_old_one_when_the_block_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), runtime.atomic_file(path) as handle:
        handle.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_output_dir_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), runtime.output_dir(out) as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with runtime.output_dir(out) as folder:
        (folder / "x").write_text("1")
    with runtime.output_dir(out) as folder:
        (folder / "y").write_text("2")
    assert [p.name for p in out.iterdir()] == ["y"]


def test_json_is_deterministic_rounded_and_free_of_nan(tmp_path):
    runtime.write_json(
        tmp_path / "m.json", {"b": 1.23456789, "a": [float("nan"), 2], "c": {"d": float("inf")}}
    )
    assert (tmp_path / "m.json").read_text() == (
        '{\n  "a": [\n    null,\n    2\n  ],\n  "b": 1.23457,\n  "c": {\n    "d": null\n  }\n}\n'
    )
    runtime.write_csv(tmp_path / "m.csv", ["a", "b"], [(1, 0.1 + 0.2), (2, None)])
    assert (tmp_path / "m.csv").read_text() == "a,b\n1,0.3\n2,\n"


def test_reading_a_missing_or_damaged_json_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no such file; run the stage that writes it"):
        runtime.read_json(tmp_path / "m.json")
    (tmp_path / "m.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="damaged JSON .*dvc repro"):
        runtime.read_json(tmp_path / "m.json")


def test_hash_sees_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    first = runtime.hash_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert runtime.hash_files(tmp_path) != first
    (tmp_path / "b").rename(tmp_path / "a")
    assert runtime.hash_files(tmp_path) == first


def test_derived_seeds_are_stable_and_differ_by_key():
    assert runtime.derive_seed(1, "a", 2) == runtime.derive_seed(1, "a", 2)
    assert len({runtime.derive_seed(1, "a", i) for i in range(100)} | {runtime.derive_seed(2, "a", 0)}) == 101


def run_script(body, tmp_path, **env):
    code = "from llm.runtime import *\nfrom llm import runtime\n" + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "LLM_WORK_DIR": str(tmp_path), "DVC_STAGE": "demo", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path):
    body = """
    def main():
        raise ValueError("data: broken; mend it")
    run_stage(main)
    """
    process = run_script(body, tmp_path)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, "demo: data: broken; mend it\n")
    process = run_script(body, tmp_path, LLM_DEBUG="1")
    assert "Traceback" in process.communicate(timeout=60)[1]


def test_success_records_machine_facts_outside_every_out(tmp_path):
    process = run_script("run_stage(lambda: record_facts(tokens_per_s=5.0))", tmp_path)
    assert process.wait(timeout=60) == 0
    facts = json.loads((tmp_path / "facts" / "demo.json").read_text())
    assert facts["tokens_per_s"] == 5.0
    assert facts["peak_memory_bytes"] > 1e6
    assert facts["seconds"] >= 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_become_a_flag_and_exit_code_130(tmp_path, number):
    process = run_script(
        """
        import time
        def main():
            with stop_signals() as stopped:
                print("ready", flush=True)
                while not stopped():
                    time.sleep(0.01)
            raise Interrupted("checkpoint at step 7")
        run_stage(main)
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "demo: interrupted: checkpoint at step 7\n")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with runtime.exclusive(tmp_path / "w"):
        process = run_script(
            f"""
            from pathlib import Path
            def main():
                with exclusive(Path({str(tmp_path / "w")!r})):
                    pass
            run_stage(main)
            """,
            tmp_path,
        )
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "another run is training here" in err
