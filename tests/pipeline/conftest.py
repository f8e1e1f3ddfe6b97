"""A copy of the checkout in a folder of its own, with git and DVC, for tests that run the pipeline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Checkout:
    """A working copy one can run commands in."""

    def __init__(self, path: Path, work: Path):
        self.path = path
        bin_dir = Path(sys.executable).parent
        self.env = {
            **os.environ,
            "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path),
            "LLM_WORK_DIR": str(work),
            "LLM_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            # The shell that stays between dvc and a stage, where bash would replace itself by the stage.
            "SHELL": "/bin/sh",
            "DVC_SITE_CACHE_DIR": str(work / "dvc-site"),
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
        }  # fmt: skip

    def run(self, *command: str, code: int | None = 0, timeout: int = 600, **env: str) -> str:
        """Standard output and error of a command; its exit code must be `code` (None: any)."""
        done = subprocess.run(
            command, cwd=self.path, env={**self.env, **env}, text=True, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert code is None or done.returncode == code, (
            f"{command} -> {done.returncode}\n{done.stdout[-4000:]}"
        )
        return done.stdout

    def ran(self, output: str) -> set[str]:
        """The stages a `dvc repro` ran, from what it printed."""
        return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}

    def set_param(self, key: str, value: str) -> None:
        """Change one key of params.yaml in place, keeping everything else."""
        self.run(sys.executable, "-c", (
            "import sys, yaml; from pathlib import Path; from llm.params import read_yaml\n"
            "data = read_yaml(Path('params.yaml')); *path, last = sys.argv[1].split('.')\n"
            "node = data\n"
            "for part in path: node = node[part]\n"
            "assert last in node, sys.argv[1]\n"
            "node[last] = yaml.safe_load(sys.argv[2])\n"
            "Path('params.yaml').write_text(yaml.safe_dump(data, sort_keys=False))"
        ), key, value)  # fmt: skip


def copy_checkout(target: Path) -> None:
    """Copy what git tracks or would track, and make it a repository with one commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout.split("\n")
    for name in filter(None, listed):
        source, destination = ROOT / name, target / name
        if source.is_file():
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Checkout:
    """The tiny preset, run once from nothing."""
    base = tmp_path_factory.mktemp("pipeline")
    checkout = Checkout(base / "repo", base / "work")
    copy_checkout(checkout.path)
    (checkout.path / "dvc.lock").unlink(missing_ok=True)
    checkout.run("llm", "preset", "tiny")
    checkout.run("git", "init", "-q", "-b", "main")
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "start")
    checkout.first_output = checkout.run("dvc", "repro")
    checkout.run("git", "add", "-A")
    checkout.run("git", "commit", "-qm", "first run")
    return checkout
