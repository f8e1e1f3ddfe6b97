"""base: the interface of an algorithm that learns a vocabulary, and the folder it writes.

`kind` in `params.yaml` names one module here. Each has a `Config`, which extends `Size`, and
`build(config) -> Algorithm`. Whatever learned a vocabulary, it ends in the same folder, which the `tokenizers`
library encodes with; a kind with code of its own for encoding offers it through `Algorithm.encoder`.

Modules that only some kinds use are named here nevertheless (under TYPE_CHECKING, so nothing is loaded): dvc.yaml
lists the chosen kind and what this file imports, and so an edit of such a module makes the stages run again.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tokenizers

from llm import registry
from llm.runtime import write_json
from llm.tokenizer import chat_template
from llm.tokenizer.base import FORMAT, Tokenizer, load_tokenizer
from llm.tokenizer.encoder import Encoder, LibraryEncoder
from llm.tokenizer.special import special_tokens

if TYPE_CHECKING:  # for dvc.yaml: what only some kinds import
    from llm.tokenizer import lattice, lattices, merges, unigram, unigram_training, wordpiece  # noqa: F401


@dataclass(frozen=True, kw_only=True)
class Size:
    """What every kind's Config holds, so that `kind` alone can be changed.

    vocab_size: special tokens, the pieces a kind starts from (`alphabet` names them, `n_alphabet` says how
    many) and learned pieces. min_frequency: what occurs less often is not learned.
    """

    vocab_size: int
    min_frequency: int
    special_tokens: tuple[str, ...]

    alphabet: ClassVar[str] = "256 bytes"
    n_alphabet: ClassVar[int] = 256

    def __post_init__(self) -> None:
        smallest = self.n_alphabet + len(special_tokens(self.special_tokens))
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size ({self.vocab_size}) must hold {self.alphabet} and the special tokens: {smallest}"
            )
        if self.min_frequency < 1:
            raise ValueError(f"min_frequency ({self.min_frequency}) must be at least 1")


class Algorithm(ABC):
    """Learns a vocabulary from text. special_tokens: all of them, in id order."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.kind = registry.kind_of(config)
        self.special_tokens = special_tokens(config.special_tokens)

    @abstractmethod
    def train(self, texts: Iterable[str]) -> tokenizers.Tokenizer:
        """A backend whose first ids are the special tokens; equal texts give equal bytes when saved."""

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        """What the encode stage encodes with; every kind gives the ids that the library gives."""
        return LibraryEncoder(tokenizer)


def backend_of(
    model: Any, pre_tokenizer: Any, decoder: Any, special_tokens: Iterable[str] = ()
) -> tokenizers.Tokenizer:
    """Put a backend together; the special tokens must have their ids in the model already."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoder
    backend.add_special_tokens(list(special_tokens))
    return backend


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
