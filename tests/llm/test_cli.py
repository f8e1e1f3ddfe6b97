"""cli: one line and exit code 2 for everything a user can get wrong; help without the cost of torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm.cli import app

SLOW_MODULES = ("torch", "tokenizers", "datasets", "pandas", "matplotlib", "dvc", "wandb", "swanlab")


def test_help_imports_nothing_slow() -> None:
    code = f"import sys, llm.cli; print([name for name in {SLOW_MODULES} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("command", ["inspect", "generate", "chat"])
@pytest.mark.parametrize("state", ["missing", "foreign", "empty"])
def test_bad_model_folder_is_one_line(command: str, state: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if state != "missing":
        folder.mkdir()
    if state == "foreign":
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model.safetensors").write_bytes(b"")
    arguments = [command, str(folder), *(["--prompt", "x"] if command == "generate" else [])]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"llm {command}: {folder}")
    expected = {
        "missing": "run: dvc repro",
        "foreign": "expected 'llm-from-scratch/1'",
        "empty": "expected config.json",
    }
    assert expected[state] in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preset", "huge"], "no such preset"),
        (["list", "mixer"], "did you mean 'mixers'"),
        (["explain", "gqaa"], "no page 'gqaa'"),
        (
            ["generate", "x", "--prompt", "a", "--temperature", "-1"],
            "temperature (-1.0) must not be negative",
        ),
    ],
)
def test_bad_argument_is_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"llm {arguments[0]}: ")
    assert message in line


def test_debug_shows_the_error_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_DEBUG", "1")
    result = CliRunner().invoke(app, ["list", "mixer"])
    assert isinstance(result.exception, ValueError)


def test_reader_that_goes_away_is_no_error() -> None:
    """`llm explain ... | head -1`"""
    program = "import sys; from llm.cli import app; sys.argv = ['llm', 'list']; app()"
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()
    _, err = run.communicate()
    assert run.returncode == 0
    assert err == b""
