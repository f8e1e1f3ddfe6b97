"""bpb: bits per byte of the unfiltered validation text, whole documents, by kind.

Equations   docs/eval/perplexity.md
Source      see llm/eval/perplexity.py
Cost        one pass over the validation text, times seq_len / stride for long documents
Differs     nothing
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llm.data.document import Document
from llm.eval.metrics.uncertainty import Estimate
from llm.eval.perplexity import DocumentScore, ratio, score_documents
from llm.eval.tasks.base import Record, Results, Subject, Task, by_kind, evenly, validation


@dataclass(frozen=True, kw_only=True)
class Config:
    """seq_len, stride: windows of long documents. n_examples: documents, evenly spaced; 0 = all.

    precision: of weights and activations; log-probabilities and sums are wider in both.
    """

    seq_len: int
    stride: int
    n_examples: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.seq_len:
            raise ValueError(f"stride ({self.stride}) must be from 1 to seq_len ({self.seq_len})")


class BitsPerByte(Task):
    """A ratio of sums over documents; its error by the delta method."""

    name = "bpb"

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, raw: Path) -> list[Document]:
        return evenly(validation(raw, "pretrain"), self.config.n_examples)

    def run(self, subject: Subject, examples: Sequence[Document]) -> list[Record]:
        texts = [document.text for document in examples]
        ids = subject.tokenizer.encode_batch(texts)
        model = subject.model
        if self.config.precision == "bf16":
            model = copy.deepcopy(model).to(torch.bfloat16)
        scores = score_documents(
            model,
            [
                ([subject.tokenizer.eot_id, *tokens], len(document.text.encode()), document.kind)
                for tokens, document in zip(ids, examples, strict=True)
            ],
            seq_len=self.config.seq_len,
            stride=self.config.stride,
            label=f"eval {subject.name}: {self.name}",
        )
        return [
            {"id": d.id, "kind": d.kind, "nats": s.nats, "n_bytes": s.n_bytes, "n_tokens": s.n_tokens}
            for d, s in zip(examples, scores, strict=True)
        ]

    def summarise(self, records: Sequence[Record]) -> Results:
        return {"bits_per_byte": by_kind(records, _estimate)}


def _estimate(records: Sequence[Record]) -> Estimate:
    scores = [DocumentScore(r["kind"], r["nats"], r["n_bytes"], r["n_tokens"]) for r in records]
    return Estimate(*ratio(scores), len(records))


build = BitsPerByte
