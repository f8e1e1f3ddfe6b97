"""benchmarks: the texts that models are measured on, for filters that must keep them out of training.

Every evaluation task reads the validation file of one of the raw sets; a set is a benchmark here, a document
one of its items. Question and answer are joined, so that a run of words across the seam counts too; beside
them stands the question alone, which may be quoted without its answer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.data.document import Document, read_documents
from llm.data.filters.base import Item


def benchmark_texts(raw: Path) -> dict[str, list[Item]]:
    """Benchmark -> its items, each as the texts that give it away, from `<raw>/<set>/validation.jsonl`.

    Raises:
        ValueError: a file is missing or damaged, or an item is not as its set demands.
    """
    return {
        name: [
            _item(reader, document, raw / name)
            for document in read_documents(raw / name / "validation.jsonl")
        ]
        for name, reader in READERS.items()
    }


def _item(reader: Callable[[Document], Item], document: Document, where: Path) -> Item:
    try:
        return reader(document)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{where}: item {document.id!r} is not as its set demands; run: dvc repro download"
        ) from None


def _messages(messages: list[dict[str, Any]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _pretrain(document: Document) -> Item:
    return (document.text,)


def _sft(document: Document) -> Item:
    """The conversation, and the part that the last answer is given to."""
    messages = document.data["messages"]
    return _messages(messages), _messages(messages[:-1])


def _preference(document: Document) -> Item:
    question = _messages(document.data["prompt"])
    return f"{question}\n{document.data['chosen']}", question


def _prompts(document: Document) -> Item:
    return (_messages(document.data["prompt"]),)


READERS: dict[str, Callable[[Document], Item]] = {
    "pretrain": _pretrain,
    "sft": _sft,
    "preference": _preference,
    "prompts": _prompts,
}
