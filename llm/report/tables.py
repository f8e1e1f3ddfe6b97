"""tables: the report's tables as rows of text, shared by its Markdown and its HTML form.

A value that does not exist is "—" everywhere.
"""

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llm.report.collect import MODELS, Report

NONE = "—"

# task, metric -> label, which direction is better (+1 higher, -1 lower, 0 neither), show the kinds apart
METRICS: dict[tuple[str, str], tuple[str, int, bool]] = {
    ("bpb", "bits_per_byte"): ("bits per byte, held-out text", -1, True),
    ("choice", "accuracy"): ("next-reply choice, accuracy", 1, True),
    ("choice", "accuracy_per_token"): ("next-reply choice, accuracy per token", 1, False),
    ("choice", "accuracy_pmi"): ("next-reply choice, accuracy by what the prompt adds", 1, True),
    ("choice", "margin"): ("next-reply choice, margin in nats", 1, False),
    ("cloze", "accuracy"): ("last word of a sentence, accuracy", 1, False),
    ("cloze", "nats"): ("last word of a sentence, nats", -1, False),
    ("rules", "reward"): ("rule-following reward", 1, True),
    ("rules", "ended"): ("answers that end their turn", 1, False),
    ("continuation", "bleu"): ("story continuation, BLEU", 1, False),
    ("continuation", "rouge_l"): ("story continuation, ROUGE-L", 1, False),
    ("continuation", "distinct_1"): ("story continuation, distinct-1", 0, False),
    ("continuation", "distinct_2"): ("story continuation, distinct-2", 0, False),
    ("continuation", "distinct_1_real"): ("the real continuations, distinct-1", 0, False),
    ("continuation", "distinct_2_real"): ("the real continuations, distinct-2", 0, False),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """value with its standard error (None for a single example) over n examples."""

    value: float
    se: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric over all models. level: 1 for a part (one kind of example) of the row above."""

    label: str
    level: int
    better: int
    scores: dict[str, Score]


@dataclass(frozen=True, kw_only=True)
class Table:
    """head and rows of text; the first column is left-aligned, the others right."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    kinds: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- numbers as text


def count(value: Any) -> str:
    """12,345"""
    return NONE if value is None else f"{value:,.0f}"


def short(value: Any, unit: str = "") -> str:
    """12.3 M, 4.5 G; small numbers as they are."""
    if value is None:
        return NONE
    for limit, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}{unit}"
    return f"{value:.3g}{f' {unit}' if unit else ''}"


def decimal(value: Any, digits: int = 3) -> str:
    """0.123"""
    return NONE if value is None else f"{value:.{digits}f}"


def scored(score: Score | None) -> str:
    """0.612 ± 0.008; as many digits as the error deserves."""
    if score is None:
        return NONE
    digits = 3 if abs(score.value) < 10 else 2
    return decimal(score.value, digits) + (f" ± {decimal(score.se, digits)}" if score.se is not None else "")


def signed(change: Any, error: Any, digits: int) -> str:
    """+0.21 ± 0.05; a change that rounds to nothing has no sign."""
    if change is None:
        return NONE
    value = round(change, digits) or 0.0
    text = f"{value:+.{digits}f}" if value else f"{value:.{digits}f}"
    return text + ("" if error is None else f" ± {error:.{digits}f}")


def dig(value: Any, path: str) -> Any:
    """`dig(m, "size.bytes")`, None where a key is missing."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


# ---------------------------------------------------------------- the tables


def model_rows(report: Report) -> list[Row]:
    """Every metric of the evaluation, models side by side; one this file does not know comes last by its own name."""
    present = {(task, metric) for found in report.evals.values() for task in found for metric in found[task]}
    unknown = sorted(key for key in present - set(METRICS) if any(_scores(report, *key)))
    return [row for key in [*METRICS, *unknown] if key in present for row in _rows(report, *key)]


def _rows(report: Report, task: str, metric: str) -> Iterator[Row]:
    label, better, split = METRICS.get((task, metric), (f"{task}: {metric}", 0, False))
    kinds = [kind for found in report.evals.values() for kind in dig(found, f"{task}.{metric}") or {}]
    parts = sorted(set(kinds) - {"all"}) if split and len(set(kinds)) > 2 else []
    for level, kind in enumerate(["all", *parts]):
        scores = {
            model: score
            for model in MODELS
            if (score := _score(report, model, task, metric, kind)) is not None
        }
        if scores:
            name = label if kind == "all" else kind
            yield Row(label=name, level=min(level, 1), better=better, scores=scores)


def _scores(report: Report, task: str, metric: str) -> Iterator[Score]:
    for model in MODELS:
        if (score := _score(report, model, task, metric, "all")) is not None:
            yield score


def _score(report: Report, model: str, task: str, metric: str, kind: str) -> Score | None:
    found = dig(report.evals.get(model, {}), f"{task}.{metric}")
    found = found.get(kind) if isinstance(found, dict) else None
    if not isinstance(found, dict) or found.get("value") is None:
        return None
    return Score(value=found["value"], se=found.get("se"), n=int(found.get("n", 0)))


def models_table(report: Report) -> Table:
    """base, sft and aligned beside each other."""
    arrow = {1: " ↑", -1: " ↓", 0: ""}
    rows = []
    for row in model_rows(report):
        n = max(score.n for score in row.scores.values())
        label = ("· " if row.level else "") + row.label + (arrow[row.better] if not row.level else "")
        rows.append([label, count(n), *(scored(row.scores.get(model)) for model in MODELS)])
    note = "Held-out examples, the same for every model; value ± standard error. ↑ higher is better, ↓ lower."
    cut = {
        task: dig(report.evals, f"{MODELS[0]}.{task}.n_cut_prompts")
        for task in report.evals.get(MODELS[0], {})
    }
    if shortened := ", ".join(f"{task} {n}" for task, n in cut.items() if n):
        note += f" Prompts that lost their beginning for lack of room: {shortened}."
    return Table(
        title="Models",
        note=note,
        head=["metric", "examples", *MODELS],
        rows=rows,
    )


def changes_table(report: Report) -> Table:
    """What sft did to base and align to sft, example by example."""
    pairs = list(itertools.pairwise(MODELS))
    rows = []
    for (task, metric), (label, better, _) in METRICS.items():
        by_model = report.scores.get(task, {})
        changes = [paired_change(by_model.get(old, {}), by_model.get(new, {}), metric) for old, new in pairs]
        if better and any(change is not None for change in changes):
            n = max(change.n for change in changes if change is not None)
            cells = (NONE if change is None else signed(change.value, change.se, 3) for change in changes)
            rows.append([label, count(n), *cells])
    return Table(
        title="Changes",
        note="The same examples, so a change is taken example by example: its mean ± the standard error of that mean.",
        head=["metric", "examples", *(f"{old} → {new}" for old, new in pairs)],
        rows=rows,
    )


def paired_change(
    old: dict[str, dict[str, float]], new: dict[str, dict[str, float]], metric: str
) -> Score | None:
    """Mean difference over the examples both have, with its standard error; None when they share no example."""
    changes = [
        new[name][metric] - old[name][metric]
        for name in old
        if metric in old[name] and metric in new.get(name, {})
    ]
    if not changes:
        return None
    error = statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else None
    return Score(value=statistics.fmean(changes), se=error, n=len(changes))


def quantized_table(report: Report) -> Table:
    """What each quantizer makes of the aligned model."""
    rows = []
    for method, found in report.quantized.items():
        change, error = (
            dig(found, "bits_per_byte.all.change_percent"),
            dig(found, "bits_per_byte.all.change_percent_se"),
        )
        rows.append(
            [
                method,
                decimal(dig(found, "size.bits_per_weight"), 2),
                short(dig(found, "size.bytes"), "B"),
                decimal(dig(found, "size.times_smaller"), 2),
                f"{decimal(dig(found, 'bits_per_byte.all.before'))} → {decimal(dig(found, 'bits_per_byte.all.after'))}",
                signed(change, error, 2),
                decimal(dig(found, "layers.max_error")),
            ]
        )
    return Table(
        title="Quantized",
        note="The aligned model in fewer bits; change: of bits per byte, in per cent, with the paired standard error.",
        head=[
            "method",
            "bits/weight",
            "weights",
            "× smaller",
            "bits per byte",
            "change %",
            "worst layer error",
        ],
        rows=rows,
    )


def funnel_table(report: Report) -> Table:
    """Documents of the pretraining set in, dropped why, kept."""
    rows = [[label, count(docs), short(size, "B")] for label, docs, size, _ in funnel_steps(report)]
    return Table(
        title="Data",
        note="Training documents of the pretraining set on their way from the source to the tokenizer.",
        head=["", "documents", "text"],
        rows=rows,
    )


def funnel_steps(report: Report) -> list[tuple[str, int, int, bool]]:
    """(label, documents, bytes, is it a level: what is there, not what was dropped)."""
    steps: list[tuple[str, int, int, bool]] = []
    for stage in ("dedup", "filter"):
        train = dig(report.metrics.get(stage, {}), "train")
        if not train:
            continue
        if not steps:
            steps.append(("downloaded", train["in"]["docs"], train["in"]["bytes"], True))
        reasons = sorted(train["reasons"].items(), key=lambda item: (-item[1]["docs"], item[0]))
        steps += [(f"{stage}: {name}", size["docs"], size["bytes"], False) for name, size in reasons]
        steps.append((f"after {stage}", train["kept"]["docs"], train["kept"]["bytes"], True))
    return steps


def training_table(report: Report) -> Table:
    """What each training stage did, before and after."""
    m = report.metrics
    rows = []
    if base := m.get("pretrain"):
        flops, tokens = base.get("flops_per_token"), base.get("tokens")
        total = None if flops is None or tokens is None else flops * tokens
        rows += [
            ["parameters", count(base.get("params"))],
            ["FLOPs per token, forward and backward", short(flops)],
            ["pretraining tokens", f"{short(tokens)} ({decimal(base.get('epochs'), 2)} epochs)"],
            ["pretraining FLOPs", short(total)],
            ["bits per byte of held-out text after pretraining", decimal(dig(base, "val_bpb.all"))],
        ]
    if sft := m.get("sft"):
        rows += [
            ["fine-tuned parameters", count(sft.get("trained_params"))],
            ["sft, bits per byte of held-out answers", _before_after(sft, "before.all.bpb", "after.all.bpb")],
        ]
    if reward := m.get("reward"):
        found = dig(reward, "held_out.all") or {}
        rows.append(
            [
                "reward model, accuracy on held-out pairs",
                scored(Score(value=found["accuracy"], se=found.get("accuracy_se"), n=found.get("n", 0)))
                if "accuracy" in found
                else NONE,
            ]
        )
    rows += list(_align_rows(m.get("align") or {}))
    return Table(title="Training", note="", head=["", "value"], rows=rows)


def _align_rows(align: dict[str, Any]) -> Iterator[list[str]]:
    for name, found in (dig(align, "held_out.all") or {}).items():
        if isinstance(found, dict):
            gain = f"gain {signed(found.get('gain'), found.get('gain_se'), 3)}"
            label = f"{align.get('method', 'align')}, held-out {name.replace('_', ' ')}"
            yield [label, f"{_before_after(found, 'before', 'after')} ({gain})"]


def _before_after(found: Any, before: str, after: str) -> str:
    return f"{decimal(dig(found, before))} → {decimal(dig(found, after))}"


def tokens_table(report: Report) -> Table:
    """From text to training rows."""
    rows = []
    if found := report.metrics.get("tokenizer"):
        rows.append(["vocabulary", count(found.get("vocab_size"))])
        rows.append(["bytes per token, held-out text", decimal(dig(found, "validation.bytes_per_token"), 2)])
    for name in ("pretrain", "sft"):
        if found := report.metrics.get(f"pack/{name}"):
            rows.append([f"{name}: rows", count(found.get("n_rows"))])
            fill = found.get("fill_frac")
            rows.append(
                [f"{name}: share of a row that is text", NONE if fill is None else f"{100 * fill:.1f} %"]
            )
    return Table(title="Tokens", note="", head=["", "value"], rows=rows)
