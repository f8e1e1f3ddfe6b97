"""collect: everything the report card shows, read from what the stages left behind.

Nothing is measured anew and nothing is invented: what is not there is left out here and shown as "—".
"""

import csv
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.params import read_yaml
from llm.runtime import read_json, work_dir

MODELS = ("base", "sft", "aligned")
TRAINED = ("pretrain", "sft", "reward", "align")  # stages with a learning curve
SAMPLES_PER_KIND = 2


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One fixed prompt and what each model made of it. score: by the prompt's own rule, where it has one."""

    task: str
    kind: str
    prompt: str
    reference: str
    answers: dict[str, str]
    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One out in dvc.lock."""

    path: str
    md5: str
    size: int
    n_files: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """metrics: `dedup`, `encode/pretrain`, … as in metrics/. evals: by model. scores: task -> model -> example ->
    metric -> number. quantized: by method, in the order of params.yaml. curves: rows of plots/<stage>.csv.
    facts: seconds, memory, speed by stage, of this machine."""

    metrics: dict[str, Any]
    evals: dict[str, Any]
    scores: dict[str, dict[str, dict[str, dict[str, float]]]]
    quantized: dict[str, Any]
    curves: dict[str, list[dict[str, float | None]]]
    samples: list[Sample]
    pictures: dict[str, bytes]
    facts: dict[str, dict[str, Any]]
    artifacts: list[Artifact]
    revision: str


def collect(root: Path) -> Report:
    """Read the report's material below `root`.

    Raises:
        ValueError: a file that is there but damaged.
    """
    metrics = root / "metrics"
    records = root / "data" / "records"
    names = ("download", "dedup", "filter", "analyze", "tokenizer", *TRAINED)
    nested = [
        f"{folder.name}/{file.stem}"
        for folder in (metrics / "encode", metrics / "pack")
        for file in sorted(folder.glob("*.json"))
    ]
    return Report(
        metrics=_present({name: metrics / f"{name}.json" for name in (*names, *nested)}),
        evals=_present({model: metrics / "eval" / f"{model}.json" for model in MODELS}),
        scores=read_scores(records),
        quantized=_present({m: metrics / "quantize" / f"{m}.json" for m in chosen_methods(root)}),
        curves={stage: rows for stage in TRAINED if (rows := read_curve(root / "plots" / f"{stage}.csv"))},
        samples=list(read_samples(records)),
        pictures={
            path.stem: path.read_bytes() for path in sorted((root / "plots" / "analyze").glob("*.png"))
        },
        facts={path.stem: read_json(path) for path in sorted((root / work_dir() / "facts").glob("*.json"))},
        artifacts=list(read_artifacts(root / "dvc.lock")),
        revision=git_revision(root),
    )


def chosen_methods(root: Path) -> list[str]:
    """The quantizers params.yaml asks for; a metrics file of one that was removed is not shown."""
    if not (root / "params.yaml").exists():
        return []
    section = read_yaml(root / "params.yaml").get("quantize") or {}
    return [str(method) for method in section.get("methods", [])]


def _present(paths: dict[str, Path]) -> dict[str, Any]:
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def read_curve(path: Path) -> list[dict[str, float | None]]:
    """Rows of a CSV with numbers; empty cells are None. No file, no rows."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as handle:
        try:
            return [
                {name: float(cell) if cell else None for name, cell in row.items()}
                for row in csv.DictReader(handle)
            ]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: not a table of numbers ({error}); delete it and run dvc repro"
            ) from None


# ---------------------------------------------------------------- samples


def read_samples(records: Path) -> Iterator[Sample]:
    """The first records of each kind of the generating tasks, the same prompts for every model."""
    for task in ("rules", "continuation"):
        by_model = {model: _records(records / model / f"{task}.jsonl") for model in MODELS}
        first = next((by_id for by_id in by_model.values() if by_id), {})
        taken: dict[str, int] = {}
        for identity, record in first.items():
            kind = record["kind"]
            taken[kind] = taken.get(kind, 0) + 1
            if taken[kind] <= SAMPLES_PER_KIND:
                found = {model: by_id[identity] for model, by_id in by_model.items() if identity in by_id}
                yield Sample(
                    task=task,
                    kind=kind,
                    prompt=record["prompt"],
                    reference=record.get("reference", ""),
                    answers={model: found[model]["answer"] for model in found},
                    scores={m: found[m]["scores"]["reward"] for m in found if "reward" in found[m]["scores"]},
                )


def read_scores(records: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """task -> model -> example -> metric -> number, for the tasks whose records carry scores."""
    scores: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for model in MODELS:
        for file in sorted((records / model).glob("*.jsonl")):
            found = {name: record["scores"] for name, record in _records(file).items() if "scores" in record}
            if found:
                scores.setdefault(file.stem, {})[model] = found
    return scores


def _records(path: Path) -> dict[str, dict[str, Any]]:
    """Records by id, the first of each; empty when there is no file."""
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found.setdefault(record["id"], record)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: not a record ({error}); delete the folder, dvc repro"
            ) from None
    return found


# ---------------------------------------------------------------- where it comes from


def read_artifacts(lock: Path) -> Iterator[Artifact]:
    """Every cached out of dvc.lock, in its order, each path once."""
    if not lock.exists():
        return
    seen = set()
    for stage in (read_yaml(lock).get("stages") or {}).values():
        for out in stage.get("outs", []):
            if out["path"].startswith(("data/", "models/")) and out["path"] not in seen:
                seen.add(out["path"])
                yield Artifact(
                    path=out["path"],
                    md5=out["md5"],
                    size=int(out.get("size", 0)),
                    n_files=int(out.get("nfiles", 1)),
                )


def git_revision(root: Path) -> str:
    """The commit, with a mark when files differ from it; empty outside a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return ""
    return commit + (" with uncommitted changes" if _git(root, "status", "--porcelain") else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
