"""Documents survive a round trip, and anything else is named by file and line."""

import pytest

from llm.data.document import Document, read_documents, require_documents, write_documents


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
