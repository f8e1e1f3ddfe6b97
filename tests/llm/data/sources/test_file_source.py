"""The file source: every format it knows, plain and compressed, and what damaged files say."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llm.data.sources.file import Config, File

ROWS = [{"text": f"Story {n} of a füchslein."} for n in range(5)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(*paths: str, **options: object) -> list[str]:
    return [document.text for document in File(Config(paths=paths, **options)).documents()]


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(name: str, raw: bytes) -> None:
    if name.endswith(".gz"):
        raw = gzip.compress(raw)
    if name.endswith(".zst"):  # two frames, as appending tools write them
        raw = zstandard.compress(raw[: len(raw) // 2]) + zstandard.compress(raw[len(raw) // 2 :])
    Path(name).write_bytes(raw)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_jsonl_is_read_plain_and_compressed(name: str) -> None:
    write(name, jsonl(ROWS))
    assert texts(name) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_txt_is_one_document_or_many(name: str) -> None:
    write(name, b"\xef\xbb\xbfOne\r\nline.\r\n<|endoftext|>\r\nTwo.\n\nAnd more.\n<|endoftext|>\n")
    assert texts(name, separator="<|endoftext|>") == ["One\nline.", "Two.\n\nAnd more."]
    assert len(texts(name)) == 1


def test_parquet_is_read() -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), "a.parquet")
    assert texts("a.parquet") == [row["text"] for row in ROWS]


def test_origin_and_optional_columns() -> None:
    write("mine.jsonl", jsonl([{"body": "One.", "work": "book", "title": "Tale"}, {"body": "Two."}]))
    one, two = File(
        Config(paths=("mine.jsonl",), text_column="body", kind="diary", licence="own")
    ).documents()
    assert (one.id, one.source, one.kind, one.licence) == ("0-mine.jsonl/0", "mine.jsonl", "diary", "own")
    assert (one.work, one.data) == ("book", {"title": "Tale"})
    assert two.work == two.id == "0-mine.jsonl/1"


def test_messages_become_a_chat() -> None:
    write(
        "a.jsonl",
        jsonl([{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}]),
    )
    assert texts("a.jsonl") == ["A: Hi\nB: Yes"]


def test_globs_are_sorted_and_each_file_is_read_once(folder: Path) -> None:
    (folder / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/a.txt"):
        write(name, name.encode())
    assert texts("**/*.txt", "a.txt") == ["a.txt", "b.txt", "sub/a.txt"]
    ids = [document.id for document in File(Config(paths=("**/*.txt",))).documents()]
    assert len(set(ids)) == 3


def test_limits_and_short_texts() -> None:
    write("a.jsonl", jsonl([{"text": "No."}, *ROWS]))
    source = File(Config(paths=("a.jsonl",), min_chars=5, max_documents=3))
    assert [document.text for document in source.documents()] == [row["text"] for row in ROWS[:3]]
    assert source.skipped == {"text: shorter than 5 characters": 1}


def damaged_parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()[:-20]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("bad.jsonl", jsonl(ROWS) + b'{"text": "cut', r"bad\.jsonl:6: not JSON"),
        ("bad.jsonl", b"[1]\n", r"bad\.jsonl:1: expected an object, found list"),
        ("bad.jsonl", b'{"t": "x"}\n', r"bad\.jsonl:1: neither 'text' nor 'messages' \(columns: t\)"),
        ("bad.jsonl", b'{"text": 3}\n', r"bad\.jsonl:1: expected text or a list of messages, found 3"),
        ("bad.txt", b"caf\xe9 au lait", r"bad\.txt: not UTF-8"),
        ("bad.txt.gz", gzip.compress(b"x" * 5000, mtime=0)[:-12], r"bad\.txt\.gz: damaged"),
        ("bad.txt.gz", b"plain text", r"bad\.txt\.gz: damaged"),
        (
            "bad.txt.zst",
            zstandard.compress(bytes(range(256)) * 90)[:-30],
            r"bad\.txt\.zst: damaged .*cut off",
        ),
        ("bad.txt.zst", b"plain text", r"bad\.txt\.zst: damaged"),
        ("bad.parquet", damaged_parquet(), r"bad\.parquet: damaged parquet"),
        ("bad.docx", b"x", r"bad\.docx: unknown format; known are \.jsonl, \.parquet, \.txt"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(folder: Path, name: str, raw: bytes, message: str) -> None:
    (folder / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        texts(name)
    assert "\n" not in str(error.value)


def test_a_glob_without_a_match_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'\*\.jsonl' matches no file in"):
        texts("*.jsonl")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="paths: empty"):
        Config(paths=())
