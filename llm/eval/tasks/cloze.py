"""cloze: the last word of a sentence, given the text before it.

Equations   (1) in docs/eval/tasks/cloze.md
Source      Paperno et al. 2016, LAMBADA, arXiv 1606.06031
Cost        one forward pass over `context_tokens` an example
Differs     from LAMBADA: any sentence of six words or more whose last word is a plain lower-case word of three
            letters or more; not picked so that people need the wide context
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.eval.scoring import Row, score_rows
from llm.eval.tasks.base import BATCH_TOKENS, Record, Subject, Task, evenly, fit, validation

_LAST_WORD = re.compile(r" ([a-z]{3,})(?=[.!?])")
_SENTENCE_END = re.compile(r"[.!?\n]")
_MIN_WORDS = 5  # words of the sentence before the last one


@dataclass(frozen=True, kw_only=True)
class Config:
    """document_kind: which validation documents. n_examples: sentences, evenly spaced; 0 = all.
    context_tokens: text before the word."""

    document_kind: str = "tales"
    n_examples: int = 0
    context_tokens: int = 128

    def __post_init__(self) -> None:
        if self.context_tokens < 1:
            raise ValueError(f"context_tokens ({self.context_tokens}) must be positive")


@dataclass(frozen=True)
class Example:
    """context ends before the blank in front of `word`."""

    id: str
    kind: str
    context: str
    word: str


class LastWord(Task):
    """`accuracy`: every token of the word is the model's first choice, which is what greedy decoding would
    write; `nats`: -log p of the word."""

    name = "cloze"

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, raw: Path) -> list[Example]:
        documents = validation(raw, "pretrain")
        wanted = [document for document in documents if document.kind == self.config.document_kind]
        examples = [
            example
            for document in wanted
            for example in find_examples(document.id, document.kind, document.text)
        ]
        if not examples:
            kinds = ", ".join(sorted({document.kind for document in documents}))
            raise ValueError(
                f"eval.cloze.document_kind: no sentence in validation documents of kind "
                f"{self.config.document_kind!r}; there are kinds {kinds}"
            )
        return evenly(examples, self.config.n_examples)

    def run(self, subject: Subject, examples: Sequence[Example]) -> list[Record]:
        # eight characters a token are plenty; encoding whole tales once a sentence would take minutes
        reach = 8 * self.config.context_tokens
        contexts = subject.tokenizer.encode_batch([example.context[-reach:] for example in examples])
        words = subject.tokenizer.encode_batch([" " + example.word for example in examples])
        rows = []
        for context, word in zip(contexts, words, strict=True):
            room = min(self.config.context_tokens, subject.model.config.max_len - len(word))
            kept, _ = fit([subject.tokenizer.eot_id, *context], room)
            rows.append(Row([*kept, *word], len(word)))
        label = f"eval {subject.name}: {self.name}"
        scores = score_rows(subject.model, rows, batch_tokens=BATCH_TOKENS, label=label)
        return [
            {
                "id": example.id,
                "kind": example.kind,
                "context": example.context[-80:],
                "word": example.word,
                "scores": {
                    "accuracy": float(score.first.all()),  # (1)
                    "nats": -float(score.logps.sum()),
                },
            }
            for example, score in zip(examples, scores, strict=True)
        ]


def find_examples(document: str, kind: str, text: str) -> list[Example]:
    """Every sentence end of a text that can be asked for."""
    examples = []
    for match in _LAST_WORD.finditer(text):
        before = _SENTENCE_END.split(text[max(0, match.start() - 400) : match.start()])[-1]
        if len(before.split()) >= _MIN_WORDS:
            examples.append(
                Example(f"{document}#{match.start()}", kind, text[: match.start()], match.group(1))
            )
    return examples


build = LastWord
