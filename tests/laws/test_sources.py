"""Laws of text sources: every kind, on a small stand-in of what it reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_sources import make_hub_folder, make_wheels

from llm import registry
from llm.data.sources import registry as registry_source
from llm.data.sources.base import Source, is_chat

ROWS = [{"text": f"Once there was a fox, number {n}."} for n in range(6)]


def _registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(registry_source, "LOCK", make_wheels(folder))
    monkeypatch.setenv("LLM_WHEEL_DIR", str(folder))
    return {"min_chars": 100}


def _hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HF_HOME", str(folder / "home"))
    return {"path": str(make_hub_folder(folder / "repository", {"default": ROWS})), "split": "train"}


def _file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return {"paths": (str(folder / "*.jsonl"),)}


STAND_INS: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "registry": _registry,
    "hub": _hub,
    "file": _file,
}


@pytest.fixture(params=registry.kinds("llm.data.sources"))
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    options = STAND_INS[request.param](tmp_path, monkeypatch)
    module = registry.module("llm.data.sources", request.param)
    built = registry.build(module.Config(**options))
    assert isinstance(built, Source)
    return built


def test_the_same_documents_come_in_the_same_order(source: Source) -> None:
    first = list(source.documents())
    assert len(first) >= 6
    assert list(source.documents()) == first


def test_every_document_is_complete_and_its_id_is_unique(source: Source) -> None:
    documents = list(source.documents())
    for document in documents:
        for name in ("id", "source", "kind", "licence", "work", "text"):
            assert getattr(document, name).strip(), name
    assert len({document.id for document in documents}) == len(documents)


def test_ids_and_sources_do_not_tell_where_files_lie(source: Source, tmp_path: Path) -> None:
    assert not any(str(tmp_path) in f"{d.id} {d.source} {d.work}" for d in source.documents())


def test_a_conversation_has_the_text_of_its_turns(source: Source) -> None:
    for document in source.documents():
        if is_chat(document):
            lines = [f"{'AB'[i % 2]}: {turn}" for i, turn in enumerate(document.data["turns"])]
            assert document.text.split("\n") == lines
