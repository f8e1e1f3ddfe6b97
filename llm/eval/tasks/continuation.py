"""continuation: the model goes on with a tale; how close is that to the real text, and how varied?

Equations   docs/eval/metrics/bleu.md, rouge.md, distinct.md
Source      BLEU: Papineni et al. 2002; ROUGE: Lin 2004; distinct-n: Li et al. 2016, arXiv 1510.03055
Cost        `max_new_tokens` decoding steps a batch
Differs     from the metrics' usual use: there are many good continuations, so BLEU and ROUGE stay low for any
            model; read them beside distinct-n, which falls when a model repeats itself
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.eval.metrics import bleu
from llm.eval.metrics.distinct import distinct_n
from llm.eval.metrics.rouge import rouge_l
from llm.eval.metrics.uncertainty import Estimate, jackknife
from llm.eval.tasks.base import Record, Results, Subject, Task, complete, evenly, fit, validation
from llm.infer.sampling import SamplingParams

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, kw_only=True)
class Config:
    """document_kind: which validation documents. n_examples: passages, evenly spaced; 0 = all. prompt_words,
    reference_words: what the model is given and what it is compared with (its text is cut to as many words)."""

    document_kind: str = "tales"
    n_examples: int = 0
    prompt_words: int = 60
    reference_words: int = 30
    max_new_tokens: int = 64
    temperature: float = 0.7

    def __post_init__(self) -> None:
        for name in ("prompt_words", "reference_words", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


@dataclass(frozen=True)
class Passage:
    """`reference` follows `prompt` in the document, white space between them left out."""

    id: str
    kind: str
    prompt: str
    reference: str


class Continuation(Task):
    """`bleu` (corpus, 0-100), `rouge_l` (mean F1), `distinct_1` and `distinct_2` of the model's texts, and of the
    real ones for scale."""

    name = "continuation"

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, raw: Path) -> list[Passage]:
        documents = validation(raw, "pretrain")
        wanted = [document for document in documents if document.kind == self.config.document_kind]
        passages = [p for d in wanted for p in self._passages(d.id, d.kind, d.text)]
        if not passages:
            kinds = ", ".join(sorted({document.kind for document in documents}))
            raise ValueError(
                f"eval.continuation.document_kind: no passage of {self.config.prompt_words} + "
                f"{self.config.reference_words} words in validation documents of kind "
                f"{self.config.document_kind!r}; there are kinds {kinds}"
            )
        return evenly(passages, self.config.n_examples)

    def _passages(self, document: str, kind: str, text: str) -> list[Passage]:
        """The document cut into stretches of prompt_words + reference_words words; the rest is not used."""
        spans = [match.span() for match in _WORD.finditer(text)]
        n, m = self.config.prompt_words, self.config.reference_words
        return [
            Passage(
                f"{document}#{spans[i][0]}",
                kind,
                text[spans[i][0] : spans[i + n - 1][1]],
                text[spans[i + n][0] : spans[i + n + m - 1][1]],
            )
            for i in range(0, len(spans) - n - m + 1, n + m)
        ]

    def run(self, subject: Subject, examples: Sequence[Passage]) -> list[Record]:
        tokenizer, config = subject.tokenizer, self.config
        room = subject.model.config.max_len - config.max_new_tokens
        encoded = tokenizer.encode_batch([passage.prompt for passage in examples])
        fitted = [fit([tokenizer.eot_id, *ids], room) for ids in encoded]
        answers = complete(
            subject,
            [ids for ids, _ in fitted],
            task=self.name,
            max_new_tokens=config.max_new_tokens,
            sampling=SamplingParams(temperature=config.temperature),
            stop_ids=(tokenizer.im_end_id, tokenizer.eot_id),
        )
        records = []
        for passage, (_, cut), ids in zip(examples, fitted, answers, strict=True):
            text = " ".join(tokenizer.decode(ids, skip_special=True).split()[: config.reference_words])
            records.append(
                {
                    "id": passage.id,
                    "kind": passage.kind,
                    "prompt": passage.prompt,
                    "answer": text,
                    "reference": passage.reference,
                    "n_cut": cut,
                    "scores": {"rouge_l": rouge_l(text, passage.reference).f1},
                }
            )
        return records

    def summarise(self, records: Sequence[Record]) -> Results:
        counts = [bleu.statistics(record["answer"], [record["reference"]]) for record in records]
        return {
            **super().summarise(records),
            "bleu": {"all": jackknife(counts, _corpus_bleu)},
            **{f"distinct_{n}": {"all": _distinct(records, "answer", n)} for n in (1, 2)},
            **{f"distinct_{n}_real": {"all": _distinct(records, "reference", n)} for n in (1, 2)},
        }


def _corpus_bleu(counts: Sequence[Sequence[int]]) -> float:
    return bleu.from_statistics([sum(column) for column in zip(*counts, strict=True)])


def _distinct(records: Sequence[Record], field: str, order: int) -> Estimate:
    statistic: Callable[[Sequence[str]], float] = lambda texts: distinct_n(texts, order)  # noqa: E731
    return jackknife([record[field] for record in records], statistic)


build = Continuation
