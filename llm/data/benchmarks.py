"""benchmarks: the texts that models are measured on, for filters that must keep them out of training.

Every evaluation task reads the validation file of one of the raw sets; a set is a benchmark here, a document
one of its items. Question and answer are joined, so that a run of words across the seam counts too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.data.document import Document, read_documents


def benchmark_texts(raw: Path) -> dict[str, list[str]]:
    """Benchmark -> the texts of its items, from `<raw>/<set>/validation.jsonl`.

    Raises:
        ValueError: a file is missing or damaged, or an item is not as its set demands.
    """
    return {
        name: [
            _text(reader, document, raw / name)
            for document in read_documents(raw / name / "validation.jsonl")
        ]
        for name, reader in READERS.items()
    }


def _text(reader: Callable[[Document], str], document: Document, where: Path) -> str:
    try:
        return reader(document)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{where}: item {document.id!r} is not as its set demands; run: dvc repro download"
        ) from None


def _messages(messages: list[dict[str, Any]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _pretrain(document: Document) -> str:
    return document.text


def _sft(document: Document) -> str:
    return _messages(document.data["messages"])


def _preference(document: Document) -> str:
    return f"{_messages(document.data['prompt'])}\n{document.data['chosen']}"


def _prompts(document: Document) -> str:
    return _messages(document.data["prompt"])


READERS: dict[str, Callable[[Document], str]] = {
    "pretrain": _pretrain,
    "sft": _sft,
    "preference": _preference,
    "prompts": _prompts,
}
