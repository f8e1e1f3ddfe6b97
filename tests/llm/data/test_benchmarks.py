"""Whatever an evaluation task shows to a model is a text of a benchmark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm import registry
from llm.data.benchmarks import benchmark_texts
from llm.data.document import Document, write_documents

TALE = " ".join(f"The hen number {i} saw the old fox near her yard." for i in range(40))
SAID = [{"role": "user", "content": "Have you ever used it?"}, {"role": "assistant", "content": "Once."}]
ASKED = [*SAID, {"role": "user", "content": "What was it like?"}]
SETS: dict[str, dict[str, Any]] = {
    "pretrain": {"kind": "tales", "text": TALE},
    "sft": {"kind": "chat", "data": {"messages": SAID}},
    "preference": {
        "kind": "easy",
        "data": {"prompt": ASKED, "chosen": "Slow.", "rejected": "It was a joke."},
    },
    "prompts": {"kind": "words", "data": {"prompt": ASKED, "rule": {"kind": "words"}}},
}
CONFIGS: dict[str, dict[str, Any]] = {"bpb": {"seq_len": 8, "stride": 8}}


def joined(messages: list[dict[str, str]], *more: str) -> str:
    return "\n".join([*(message["content"] for message in messages), *more])


# what a task makes a model read or write, for one of its examples; a wrong answer is no secret
SHOWN: dict[str, Callable[[Any], list[str]]] = {
    "bpb": lambda document: [document.text],
    "choice": lambda document: [joined(document.data["prompt"], document.data["chosen"])],
    "cloze": lambda example: [f"{example.context} {example.word}"],
    "continuation": lambda passage: [f"{passage.prompt} {passage.reference}"],
    "rules": lambda document: [joined(document.data["prompt"])],
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name, payload in SETS.items():
        one = Document(id="x", source="s", licence="PD", work="w", **payload)
        write_documents(tmp_path / name / "validation.jsonl", [one])
    return tmp_path


def test_every_task_is_here() -> None:
    assert set(SHOWN) == set(registry.kinds("llm.eval.tasks"))


@pytest.mark.parametrize("kind", SHOWN)
def test_what_a_task_shows_is_in_a_benchmark(raw: Path, kind: str) -> None:
    task = registry.build(registry.module("llm.eval.tasks", kind).Config(**CONFIGS.get(kind, {})))
    texts = [text for items in benchmark_texts(raw).values() for item in items for text in item]
    shown = [text for example in task.load(raw) for text in SHOWN[kind](example)]
    assert shown
    assert all(any(text in known for known in texts) for text in shown)


def test_a_set_without_its_file_is_named(raw: Path) -> None:
    (raw / "prompts" / "validation.jsonl").unlink()
    with pytest.raises(ValueError, match="prompts/validation.jsonl: no such file"):
        benchmark_texts(raw)
