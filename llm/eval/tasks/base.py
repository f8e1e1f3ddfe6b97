"""base: the interface of an evaluation task, and what tasks share.

A task reads its examples from the raw validation sets, lets a model answer, and keeps one record an example;
its results are estimates over those records. Every model meets the same prompts in the same form, the base
model included: a chat template it has never seen is part of what it is compared on.

Shapes      none; token ids are lists of int
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from llm.data.document import Document, require_documents
from llm.eval.metrics.uncertainty import Estimate, mean
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.model import Decoder
from llm.runtime import derive_seed, progress
from llm.tokenizer.base import Tokenizer

T = TypeVar("T")
Record = dict[str, Any]  # id, kind, what was asked and answered, and `scores`: name -> number
Results = dict[str, dict[str, Estimate]]  # metric -> kind of example or "all" -> estimate

BATCH_TOKENS = 2048  # inputs of one forward pass, padding included; more is slower on a CPU's cache
BATCH_ROWS = 64  # prompts that are continued together


@dataclass(frozen=True)
class Subject:
    """The model under test. `name` labels progress bars; `seed` feeds sampling."""

    name: str
    model: Decoder
    tokenizer: Tokenizer
    seed: int


class Task(ABC):
    """One way of testing a model; `name` is the kind, that is the file name."""

    name: str

    @abstractmethod
    def load(self, raw: Path) -> list[Any]:
        """The examples, from the validation files below `raw`; the same for every model."""

    @abstractmethod
    def run(self, subject: Subject, examples: Sequence[Any]) -> list[Record]:
        """One record an example (or a sample of one), in order."""

    def summarise(self, records: Sequence[Record]) -> Results:
        """Mean of every score, by kind and of all. Several samples of one example are averaged first."""
        names = list(records[0]["scores"]) if records else []
        return {
            name: by_kind(records, lambda part, name=name: mean(_per_example(part, name))) for name in names
        }


def _per_example(records: Sequence[Record], name: str) -> list[float]:
    samples: dict[str, list[float]] = {}
    for record in records:
        samples.setdefault(record["id"], []).append(float(record["scores"][name]))
    return [sum(values) / len(values) for values in samples.values()]


def by_kind(records: Sequence[Record], estimate: Any) -> dict[str, Estimate]:
    """`estimate` of the records of each kind, and of "all"."""
    kinds = sorted({record["kind"] for record in records})
    parts = {kind: [record for record in records if record["kind"] == kind] for kind in kinds}
    return {
        "all": estimate(records),
        **({k: estimate(p) for k, p in parts.items()} if len(kinds) > 1 else {}),
    }


def validation(raw: Path, name: str) -> list[Document]:
    """The validation documents of one set, at least one."""
    return require_documents(raw / name / "validation.jsonl", f"eval needs the validation split of '{name}'")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` items spread evenly over all of them; all when there are fewer or count is 0."""
    if count == 0 or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def fit(ids: Sequence[int], room: int) -> tuple[list[int], int]:
    """The last `room` ids, and how many were cut off at the front."""
    return list(ids[-room:]), max(0, len(ids) - room)


def complete(
    subject: Subject,
    prompts: Sequence[list[int]],
    *,
    task: str,
    max_new_tokens: int,
    sampling: SamplingParams,
    stop_ids: Iterable[int],
) -> list[list[int]]:
    """Continue every prompt, in batches of like length -> new ids in the order given, stop token included.

    Each batch draws from its own generator, seeded by the seed, the task and the number of the batch.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[start : start + BATCH_ROWS] for start in range(0, len(order), BATCH_ROWS)]
    answers: dict[int, list[int]] = {}
    for number, batch in enumerate(progress(batches, f"eval {subject.name}: {task}")):
        seed = derive_seed(subject.seed, "eval", task, number)
        completions = generate(
            subject.model,
            [prompts[i] for i in batch],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids=set(stop_ids),
            generator=torch.Generator().manual_seed(seed),
        )
        answers.update(zip(batch, completions.tokens, strict=True))
    return [answers[i] for i in range(len(prompts))]
