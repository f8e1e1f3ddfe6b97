"""Documents survive a round trip, and anything else is named by file and line."""

import json

import pytest

from llm.data.document import (
    Document,
    DocumentFile,
    read_documents,
    read_lines,
    require_any,
    require_documents,
    write_documents,
)


def test_round_trip(tmp_path):
    documents = [
        Document(id="1", source="s", kind="tales", licence="PD", work="w", text="Ein Märchen\n日本 \u2028 x"),
        Document(
            id="2", source="s", kind="chat", licence="MIT", work="v", data={"messages": [{"role": "user"}]}
        ),
    ]
    assert write_documents(tmp_path / "d.jsonl", documents) == 2
    assert list(read_documents(tmp_path / "d.jsonl")) == documents


@pytest.mark.parametrize("line", ['{"id": "1"}', "not json", '{"id": "1", "colour": 3}'])
def test_a_bad_line_is_named(tmp_path, line):
    write_documents(tmp_path / "d.jsonl", [Document(id="1", source="", kind="k", licence="", work="w")])
    with open(tmp_path / "d.jsonl", "a") as handle:
        handle.write(line + "\n")
    with pytest.raises(ValueError, match="d.jsonl:"):
        list(read_documents(tmp_path / "d.jsonl"))


def test_empty_and_missing_files_are_errors(tmp_path):
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty corpus; lower filter.quality"):
        require_documents(tmp_path / "d.jsonl", "lower filter.quality")
    with pytest.raises(ValueError, match="no such file; run the stage"):
        list(read_documents(tmp_path / "none.jsonl"))


def made(n_docs):
    return [
        Document(id=str(i), source="s", kind="k", licence="l", work="w", text="ü" * i) for i in range(n_docs)
    ]


def test_pieces_hold_whole_lines_and_know_their_numbers(tmp_path):
    write_documents(tmp_path / "d.jsonl", made(50))
    pieces = list(read_lines(tmp_path / "d.jsonl", 300))
    assert len(pieces) > 10
    assert b"".join(line for piece in pieces for line in piece.lines) == (tmp_path / "d.jsonl").read_bytes()
    assert [piece.first for piece in pieces] == [
        int(json.loads(piece.lines[0])["id"]) + 1 for piece in pieces
    ]
    assert all(sum(map(len, piece.lines)) >= 300 for piece in pieces[:-1])
    assert [document for piece in pieces for document in piece.documents()] == made(50)


def test_a_file_of_documents_can_be_read_again(tmp_path):
    write_documents(tmp_path / "d.jsonl", made(3))
    documents = require_any(tmp_path / "d.jsonl", "no reason")
    assert documents == DocumentFile(tmp_path / "d.jsonl")
    assert list(documents) == list(documents) == made(3)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty.jsonl: empty corpus; the reason"):
        require_any(tmp_path / "empty.jsonl", "the reason")


def test_half_a_surrogate_pair_survives(tmp_path):
    documents = [Document(id="ü", source="s", kind="k", licence="l", work="w", text="a \ud800 b")]
    write_documents(tmp_path / "d.jsonl", documents)
    assert list(read_documents(tmp_path / "d.jsonl")) == documents
    assert b"\\ud800" in (tmp_path / "d.jsonl").read_bytes()


def test_only_a_line_feed_ends_a_line(tmp_path):
    write_documents(tmp_path / "d.jsonl", made(2))
    data = (tmp_path / "d.jsonl").read_bytes().replace(b", ", b",\r ")
    (tmp_path / "d.jsonl").write_bytes(data)
    assert list(read_documents(tmp_path / "d.jsonl")) == made(2)
