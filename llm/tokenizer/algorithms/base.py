"""base: the interface of an algorithm that learns a vocabulary, and the folder it writes.

`kind` in `params.yaml` names one module here. Each has a `Config` with at least `vocab_size` and
`special_tokens`, and `build(config) -> Algorithm`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers

from llm.runtime import write_json
from llm.tokenizer import chat_template
from llm.tokenizer.base import FORMAT, Tokenizer, load_tokenizer


class Algorithm(ABC):
    """Learns a vocabulary from text. special_tokens: all of them, in id order."""

    kind: str
    special_tokens: tuple[str, ...]

    @abstractmethod
    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        """A backend whose first ids are the special tokens; equal texts give equal bytes when saved."""


def train_tokenizer(algorithm: Algorithm, texts: Iterable[str], folder: Path, where: str) -> Tokenizer:
    """Learn from `texts` and write the tokenizer folder; `where` names the corpus in messages.

    Raises:
        ValueError: there is no text to learn from.
    """
    counted = _Counted(texts)
    backend = algorithm.train(counted)
    if not counted.characters:
        raise ValueError(
            f"{where}: empty corpus ({counted.texts} documents, no text); loosen `filter` or `dedup`"
        )
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"), pretty=True)
    meta = {
        "format": FORMAT,
        "kind": algorithm.kind,
        "vocab_size": backend.get_vocab_size(with_added_tokens=True),
        "special_tokens": {token: backend.token_to_id(token) for token in algorithm.special_tokens},
        "chat_template": {"version": chat_template.VERSION, "jinja": chat_template.JINJA},
    }
    write_json(folder / "meta.json", meta)
    return load_tokenizer(folder)


class _Counted:
    """Passes texts on and remembers how much there was."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._source, self.texts, self.characters = texts, 0, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._source:
            self.texts += 1
            self.characters += len(text)
            yield text
