"""harness: one model through every task: records on disk, estimates for the metrics file.

data/records/base/bpb.jsonl, choice.jsonl, ...     one JSON object an example
metrics/eval/base.json                             task -> metric -> kind -> {value, se, n}
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm import registry
from llm.eval.tasks import bpb, choice, cloze, continuation, rules
from llm.eval.tasks.base import Record, Subject, Task
from llm.nn.io import load_model
from llm.runtime import atomic_file, device_name, output_dir, record_facts, round_floats
from llm.tokenizer.base import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class EvalParams:
    """One mapping a task; every task runs, in this order."""

    bpb: bpb.Config
    choice: choice.Config
    cloze: cloze.Config
    rules: rules.Config
    continuation: continuation.Config

    def tasks(self) -> list[Task]:
        """The tasks these settings describe."""
        return [registry.build(getattr(self, field.name)) for field in dataclasses.fields(self)]


def evaluate(
    name: str, model_folder: Path, raw: Path, out: Path, *, params: EvalParams, seed: int
) -> dict[str, Any]:
    """Run every task on one model, write its records below `out` and return the metrics."""
    subject = load_subject(name, model_folder, seed)
    metrics = {}
    with output_dir(out) as folder:
        for task in params.tasks():
            t0 = time.perf_counter()
            records = task.run(subject, task.load(raw))
            write_records(folder / f"{task.name}.jsonl", records)
            metrics[task.name] = to_metrics(task, records)
            record_facts(**{f"{task.name}_s": time.perf_counter() - t0})
    return metrics


def load_subject(name: str, model_folder: Path, seed: int) -> Subject:
    """The model and its own tokenizer. Raises ValueError when they do not fit together."""
    model = load_model(model_folder, device=device_name())
    tokenizer = load_tokenizer(model_folder / "tokenizer")
    if tokenizer.vocab_size != model.vocab_size:
        raise ValueError(
            f"{model_folder}: the model has {model.vocab_size} tokens, its tokenizer {tokenizer.vocab_size}; "
            "delete the folder and run: dvc repro"
        )
    return Subject(name, model, tokenizer, seed)


def write_records(path: Path, records: Sequence[Record]) -> None:
    """One JSON object a line, keys sorted, six significant digits."""
    with atomic_file(path) as handle:
        for record in records:
            handle.write(json.dumps(round_floats(record), ensure_ascii=False, sort_keys=True) + "\n")


def to_metrics(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    """metric -> kind -> {value, se, n}; and how many prompts lost their beginning for lack of room, if any."""
    results: dict[str, Any] = {
        metric: {kind: estimate.to_dict() for kind, estimate in kinds.items()}
        for metric, kinds in task.summarise(records).items()
    }
    if any("n_cut" in record for record in records):
        results["n_cut_prompts"] = sum(record["n_cut"] > 0 for record in records)
    return results
