"""The npm package: pinned by two hashes, fetched by npm, never unpacked."""

import os
import stat
import sys
from pathlib import Path

import pytest
from fake_sources import make_poems

from llm.data import npm
from llm.data.npm import Tarball, fetch_tarball, read_lock

NAME = "chinese-poetry"
MEMBER = "package/dist/yuanqu/yuanqu.json"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.delenv("LLM_WHEEL_DIR", raising=False)
    return make_poems(tmp_path / "npm")


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a program called npm first on the path; it runs `body` with the words of the command in `args`."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\nimport shutil, sys\nargs = sys.argv[1:]\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def copying(tmp_path: Path) -> str:
    return (
        "assert args[:2] == ['pack', 'chinese-poetry@2.0.1'], args\n"
        "folder = args[args.index('--pack-destination') + 1]\n"
        f"shutil.copy({str(tmp_path / 'npm' / 'chinese-poetry-2.0.1.tgz')!r}, folder)"
    )


def test_the_real_lock_pins_one_package() -> None:
    (pinned,) = read_lock(Path(npm.__file__).with_name("registry_npm.lock"))
    assert pinned.source == "chinese-poetry-2.0.1"
    assert pinned.sha256.startswith("25b549e4")
    assert pinned.sha512.startswith("KtYARvV7")


def test_npm_fetches_once(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, copying(tmp_path))
    tarball = fetch_tarball(lock, NAME)
    assert tarball.path == tmp_path / "work" / "npm" / "chinese-poetry-2.0.1.tgz"
    monkeypatch.setenv("PATH", "")  # a second call must not need npm
    assert fetch_tarball(lock, NAME) == tarball


def test_without_npm_one_line_says_what_to_do(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"chinese-poetry@2.0.1 needs npm, which is not installed; install"
    ) as error:
        fetch_tarball(lock, NAME)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_a_failed_download_leaves_nothing(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaint = "npm error code ENOTFOUND\\nnpm error network request failed\\nnpm error network again\\n"
    fake_npm(tmp_path / "bin", monkeypatch, f"sys.stderr.write('{complaint}'); sys.exit(1)")
    with pytest.raises(
        ValueError, match=r"npm could not fetch .* \(network request failed\); check the network"
    ):
        fetch_tarball(lock, NAME)
    assert not any(path.is_file() for path in (tmp_path / "work").rglob("*"))


@pytest.mark.parametrize(("label", "mark"), [("sha256", " sha256:"), ("sha512", " sha512-")])
def test_another_hash_is_refused(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, mark: str
) -> None:
    start, _, rest = lock.read_text().partition(mark)
    other = "1" if rest[0] == "0" else "0"
    lock.write_text(start + mark + other + rest[1:])
    monkeypatch.setenv("LLM_WHEEL_DIR", str(tmp_path / "npm"))
    with pytest.raises(
        ValueError, match=rf"2.0.1.tgz: {label} .* differs from .* in registry_npm.lock; delete"
    ):
        fetch_tarball(lock, NAME)


def test_a_folder_without_the_file_is_not_replaced_by_a_download(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, copying(tmp_path))
    monkeypatch.setenv("LLM_WHEEL_DIR", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match=r"bin: no chinese-poetry-2.0.1.tgz; put it there"):
        fetch_tarball(lock, NAME)


def test_members_are_read_in_one_pass_and_nothing_is_unpacked(lock: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    tarball = Tarball(
        name=NAME, version="2.0.1", sha256="", sha512="", path=lock.with_name("chinese-poetry-2.0.1.tgz")
    )
    assert set(tarball.read([MEMBER])) == {MEMBER}
    with pytest.raises(ValueError, match="holds no 'package/nothing'; the lock and the code disagree"):
        tarball.read([MEMBER, "package/nothing"])
    tarball.path.write_bytes(tarball.path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged archive"):
        tarball.read([MEMBER])
    assert sorted(tmp_path.rglob("*")) == before
