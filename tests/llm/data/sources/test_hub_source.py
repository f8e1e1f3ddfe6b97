"""The hub source, on a local folder laid out like a repository of the hub."""

from pathlib import Path

import pytest
from fake_sources import make_hub_folder

from llm.data.sources.hub import Config, Hub, HubSet

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
ROWS = {
    "stories": [{"text": f"Once there was a fox, number {n}.", "score": n} for n in range(20)]
    + [{"text": " ", "score": 9}],
    "talks": [{"messages": TALK, "source": "x"}] * 3,
    "pairs": [{"prompt": "Hi", "chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "No"}]}]
    * 3,
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "work" / "huggingface"))
    return str(make_hub_folder(tmp_path / "small-stories", ROWS))


def config(repository: str, **options: object) -> Config:
    return Config(**{"path": repository, "name": "stories", "split": "train", "kind": "tales", **options})


@pytest.mark.parametrize("streaming", [True, False])
def test_rows_become_documents_streamed_or_not(repository: str, streaming: bool) -> None:
    source = Hub(config(repository, streaming=streaming, licence="cc0"))
    documents = list(source.documents())
    assert len(documents) == 20
    assert source.skipped == {"tales: empty": 1}
    first = documents[0]
    assert first.id == first.work == "small-stories/0"  # not the folder's place on this machine
    assert (first.text, first.kind, first.licence) == ("Once there was a fox, number 0.", "tales", "cc0")
    assert first.source == "small-stories"
    assert source.ready("sft") is None
    assert source.ready("preference") is None


def test_max_documents_takes_the_first_rows(repository: str) -> None:
    documents = list(Hub(config(repository, max_documents=7)).documents())
    assert [document.id for document in documents] == [f"small-stories/{n}" for n in range(7)]


def test_ready_made_sets_are_read(repository: str) -> None:
    source = Hub(
        config(
            repository,
            sft=HubSet(path=repository, name="talks", split="train", licence="apache-2.0"),
            preference=HubSet(path=repository, name="pairs", split="train", max_documents=2),
        )
    )
    conversations = list(source.ready("sft") or ())
    assert [document.data for document in conversations] == [{"messages": TALK}] * 3
    assert conversations[0].licence == "apache-2.0"
    pairs = list(source.ready("preference") or ())
    assert [document.data for document in pairs] == [
        {"prompt": TALK[:1], "chosen": "Hello there", "rejected": "No"}
    ] * 2


def test_ready_rows_of_another_shape_are_named(repository: str) -> None:
    source = Hub(
        config(repository, sft=HubSet(path=repository, name="talks", split="train", column="source"))
    )
    with pytest.raises(ValueError, match=r"hub\.sft: small-stories/0: expected text or a list of messages"):
        list(source.ready("sft") or ())


def test_a_missing_column_names_those_there_are(repository: str) -> None:
    with pytest.raises(ValueError, match="no column 'content'; columns are score, text"):
        list(Hub(config(repository, text_column="content")).documents())


@pytest.mark.parametrize(
    "options", [{"path": "nobody/nothing-of-this-name"}, {"split": "trian"}, {"name": "storys"}]
)
def test_what_cannot_be_loaded_is_one_line_without_another_source(
    repository: str, options: dict[str, str]
) -> None:
    with pytest.raises(
        ValueError, match=r"download\.source\.hub: cannot read .*; check the network"
    ) as error:
        list(Hub(config(repository, **options)).documents())
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_one_line(repository: str) -> None:
    file = next(Path(repository, "stories").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"download\.source\.hub: cannot read") as error:
        list(Hub(config(repository)).documents())
    assert "\n" not in str(error.value)


def test_limits_are_checked(repository: str) -> None:
    with pytest.raises(ValueError, match=r"max_documents \(1\) must be at least 2"):
        config(repository, max_documents=1)
