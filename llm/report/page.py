"""page: the report as one HTML file that needs nothing else: no network, no script, light and dark.

Beside the tables of metrics/report.md it shows what differs from machine to machine (seconds, memory, speed)
and where everything comes from (git revision, hashes of the data).
"""

import base64
from html import escape
from typing import Any

from llm.report import charts, corpus
from llm.report.collect import MODELS, Report, Sample
from llm.report.style import CSS
from llm.report.tables import (
    NONE,
    Table,
    changes_table,
    count,
    decimal,
    dig,
    funnel_steps,
    model_rows,
    models_table,
    quantized_table,
    scored,
    short,
    tokens_table,
    training_table,
)

CURVE_TITLES = {
    "lr": "learning rate",
    "lr_frac": "learning rate factor",
    "grad_norm": "gradient norm",
}
STAGES = (
    *("download", "dedup", "filter", "analyze", "tokenizer", "encode", "pack"),
    *("pretrain", "sft", "reward", "align", "eval", "quantize", "report"),
)
PICTURE_TITLES = {
    "zipf": "Word frequency over rank",
    "heaps": "Distinct words over words read",
    "repetition": "Repeated n-grams over their length",
    "shares": "Bytes by kind, letters by script",
    "lengths": "Document lengths",
    "reasons": "Dropped documents by reason",
}


def to_html(report: Report) -> str:
    """The whole page."""
    sections = [
        ("results", "Results", _results(report)),
        ("changes", "Changes", _table(changes_table(report))),
        ("quantized", "Quantized", _table(quantized_table(report)) + _speeds(report)),
        ("samples", "Samples", "".join(_sample(sample) for sample in report.samples)),
        ("curves", "Learning curves", _curves(report)),
        ("training", "Training", _table(training_table(report))),
        ("data", "Data", _data(report)),
        ("corpus", "Corpus", _corpus(report)),
        ("machine", "Time and memory", _machine(report)),
        ("origin", "Where it comes from", _origin(report)),
    ]
    filled = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in filled)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{inner}</section>' for key, title, inner in filled)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Report card</title><style>{CSS}</style></head><body>"
        f"<header><h1>Report card</h1><p>{_lead(report)}</p><nav>{links}</nav></header>"
        f"<main>{_tiles(report)}{'' if report.evals else '<p>No results yet. Run: make repro</p>'}{body}</main>"
        "<footer>Written by <code>llm report</code> from metrics/, plots/ and data/records; never edited by hand. "
        f"A value that does not exist is shown as {NONE}.</footer></body></html>\n"
    )


def _lead(report: Report) -> str:
    shown = [model for model in MODELS if model in report.evals]
    what = ", ".join(shown) if shown else "no model"
    revision = report.revision or NONE
    return f"Evaluated: {what}. Git revision <code>{escape(revision)}</code>."


def _tiles(report: Report) -> str:
    base = report.metrics.get("pretrain", {})
    flops, tokens = base.get("flops_per_token"), base.get("tokens")
    bpb = dig(report.evals, "base.bpb.bits_per_byte.all.value")
    seconds = [facts["seconds"] for facts in report.facts.values() if "seconds" in facts]
    memory = [facts["peak_memory_bytes"] for facts in report.facts.values() if "peak_memory_bytes" in facts]
    tiles = [
        ("parameters", short(base.get("params"))),
        ("pretraining tokens", short(tokens)),
        ("pretraining FLOPs", short(None if flops is None or tokens is None else flops * tokens)),
        ("bits per byte, base", decimal(bpb)),
        ("pipeline", clock(sum(seconds)) if seconds else NONE),
        ("peak memory", short(max(memory), "B") if memory else NONE),
    ]
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles)
    return f'<div class="tiles">{cells}</div>'


def _results(report: Report) -> str:
    rows = model_rows(report)
    if not rows:
        return ""
    head = "".join(f'<th class="m-{model}"><i></i>{model}</th>' for model in MODELS)
    body = []
    for row in rows:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[row.better] if not row.level else ""
        cells = "".join(f"<td>{scored(row.scores.get(model))}</td>" for model in MODELS)
        n = max(score.n for score in row.scores.values())
        body.append(
            f'<tr class="level{row.level}"><th>{escape(row.label)}{arrow}</th>{cells}'
            f"<td>{charts.whiskers(row)}</td><td>{count(n)}</td></tr>"
        )
    note = f"{models_table(report).note} The dots carry bars of two standard errors."
    return (
        f'<p class="note">{note}</p><div class="scroll"><table><thead><tr><th></th>{head}<th></th>'
        f"<th>examples</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    thead = f"<thead><tr>{head}</tr></thead>" if any(table.head[2:]) else ""
    return f'{note}<div class="scroll"><table>{thead}<tbody>{rows}</tbody></table></div>'


def _speeds(report: Report) -> str:
    """Decoding speed before and after quantizing, from the facts of this machine."""
    rows = []
    for method in report.quantized:
        facts = report.facts.get(f"quantize@{method}", {})
        if "tokens_s" in facts:
            rows.append([method, count(facts.get("tokens_s_before")), count(facts["tokens_s"])])
    return _table(
        Table(
            title="",
            note="Decoding speed on this machine, tokens per second.",
            head=["", "unquantized", "quantized"],
            rows=rows,
        )
    )


def _sample(sample: Sample) -> str:
    answers = []
    for model in MODELS:
        if model not in sample.answers:
            continue
        score = (
            f'<span class="score">reward {sample.scores[model]:.2f}</span>' if model in sample.scores else ""
        )
        text = escape(sample.answers[model].strip()) or "<em>(nothing)</em>"
        answers.append(f'<div class="answer m-{model}"><h4><i></i>{model}{score}</h4><p>{text}</p></div>')
    if sample.reference:
        answers.append(
            f'<div class="answer"><h4>the real text</h4><p>{escape(sample.reference.strip())}</p></div>'
        )
    return (
        f'<article class="sample"><p class="prompt"><span>{escape(sample.task)}, {escape(sample.kind)}</span>'
        f'{escape(sample.prompt.strip())}</p><div class="answers">{"".join(answers)}</div></article>'
    )


def _curves(report: Report) -> str:
    out = []
    for stage, rows in report.curves.items():
        names = [name for name in rows[0] if name != "step"]
        drawn = [
            charts.curve(
                CURVE_TITLES.get(name, name.replace("val_", "held-out ").replace("_", " ")),
                [(row["step"] or 0.0, value) for row in rows if (value := row.get(name)) is not None],
            )
            for name in names
        ]
        if any(drawn):
            out.append(f'<h3>{stage}</h3><div class="charts">{"".join(drawn)}</div>')
    return "".join(out)


def _data(report: Report) -> str:
    steps = funnel_steps(report)
    parts = []
    if steps:
        parts.append('<p class="note">Training documents of the pretraining set: in, dropped why, kept.</p>')
        parts.append(charts.funnel(steps))
    parts.append(_table(tokens_table(report)))
    return "".join(parts)


def _corpus(report: Report) -> str:
    parts = [_table(corpus.corpus_table(report)), corpus.shares(report)]
    if lists := corpus.frequent(report):
        note = "After cleaning. What follows a count with a plus is by how much it may be too low."
        parts.append(f'<h3>Most frequent</h3><p class="note">{note}</p>{lists}')
    if reasons := corpus.dropped(report):
        note = (
            "The first documents that fell to each reason; personal data is masked, / stands for a new line."
        )
        parts.append(
            f'<h3>What was dropped</h3><p class="note">{note}</p><div class="reasons">{reasons}</div>'
        )
    known = [name for name in PICTURE_TITLES if name in report.pictures]
    pictures = "".join(
        _picture(PICTURE_TITLES.get(name, name), report.pictures[name])
        for name in [*known, *(name for name in report.pictures if name not in known)]
    )
    return "".join(parts) + (f'<div class="pictures">{pictures}</div>' if pictures else "")


def _picture(title: str, data: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure class="picture"><img alt="{title}" src="{source}"><figcaption>{title}</figcaption></figure>'
    )


def _machine(report: Report) -> str:
    if not report.facts:
        return ""
    known = ("seconds", "peak_memory_bytes")
    rows = []
    for stage, facts in sorted(report.facts.items(), key=lambda item: stage_order(item[0])):
        others = ", ".join(
            f"{name.replace('_', ' ')} {short(value) if isinstance(value, int | float) else value}"
            for name, value in facts.items()
            if name not in known
        )
        rows.append(
            [stage, clock(facts.get("seconds")), short(facts.get("peak_memory_bytes"), "B"), others or NONE]
        )
    return _table(
        Table(
            title="",
            note="The last time each stage ran on this machine. A stage that came from the cache is not here.",
            head=["stage", "time", "peak memory", "other"],
            rows=rows,
        )
    )


def stage_order(name: str) -> tuple[int, str]:
    """Pipeline order for the names of stages; unknown ones last."""
    stage = name.partition("@")[0]
    return (STAGES.index(stage) if stage in STAGES else len(STAGES)), name


def clock(seconds: Any) -> str:
    """5 min 03 s"""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _origin(report: Report) -> str:
    rows = [
        [artifact.path, short(artifact.size, "B"), count(artifact.n_files), artifact.md5.removesuffix(".dir")]
        for artifact in report.artifacts
    ]
    table = Table(
        title="",
        note="Outs and their hashes, as in dvc.lock.",
        head=["out", "size", "files", "md5"],
        rows=rows,
    )
    return f"<p>Git revision <code>{escape(report.revision or NONE)}</code></p>{_table(table)}"
