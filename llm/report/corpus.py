"""corpus: the page's section about the text itself, before and after cleaning, from metrics/analyze.json.

What it is made of, a table for each kind, the most frequent words and phrases, and what was dropped with examples.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from llm.report.collect import Report
from llm.report.tables import NONE, Table, count, decimal, dig, short

CORPORA = ("raw", "clean")
ALL = "all"
LISTED = 10
LISTS = (("words", "top_words", ""), *((f"{n} words in a row", "top_ngrams", str(n)) for n in (2, 3, 5, 10)))
SCRIPTS = {"latin": "Latin letters", "han": "Chinese characters", "other": "other scripts"}

# heading -> path in the numbers of a kind, how to write it
COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("documents", "docs", count),
    ("text", "bytes", lambda value: short(value, "B")),
    ("words", "words", short),
    ("distinct", "types", short),
    ("words in the median document", "doc_words.p50", count),
    ("text in the top 1000 words", "coverage.1000", lambda value: percent(value)),
    ("Zipf slope", "zipf_slope", lambda value: decimal(value, 2)),
    ("Heaps β", "heaps_beta", lambda value: decimal(value, 2)),
    ("repeated 3-grams", "repeated_ngrams_frac.3", lambda value: percent(value, 2)),
    ("repeated 10-grams", "repeated_ngrams_frac.10", lambda value: percent(value, 2)),
    ("repeated lines", "duplicate_lines_frac", lambda value: percent(value)),
    ("zlib shrinks it", "compression_ratio", lambda value: NONE if value is None else f"{value:.2f} ×"),
)


def percent(value: Any, digits: int = 1) -> str:
    """12.3 %"""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def corpus_table(report: Report) -> Table:
    """The numbers of each kind as columns, before → after where cleaning changed them."""
    found = dig(report.metrics.get("analyze", {}), "corpora") or {}
    kinds = [kind for kind in found.get("clean", {}) if kind != ALL] + [ALL]
    rows = []
    for label, path, write in COLUMNS:
        cells = []
        for kind in kinds:
            before, after = (write(dig(found, f"{corpus}.{kind}.{path}")) for corpus in CORPORA)
            cells.append(after if before == after else f"{before} → {after}")
        if any(cell != NONE for cell in cells):
            rows.append([label, *cells])
    return Table(
        title="Corpus",
        note="The training text of the pretraining set; before → after cleaning where it made a difference.",
        head=["", *kinds],
        rows=rows,
    )


def shares(report: Report) -> str:
    """Bars of the bytes by kind and the letters by script, before and after."""
    found = dig(report.metrics.get("analyze", {}), "corpora") or {}
    if not found:
        return ""
    kinds = {
        corpus: [
            (kind, dig(found, f"{corpus}.{kind}.bytes_frac") or 0.0)
            for kind in found.get(corpus, {})
            if kind != ALL
        ]
        for corpus in CORPORA
    }
    scripts = {
        corpus: [
            (SCRIPTS.get(script, script), share)
            for script, share in (dig(found, f"{corpus}.{ALL}.script_letters_frac") or {}).items()
            if share >= 0.0005  # what would be printed as 0.0 %
        ]
        for corpus in CORPORA
    }
    return f'<div class="shares">{_bars("Bytes by kind", kinds)}{_bars("Letters by script", scripts)}</div>'


def _bars(title: str, parts: dict[str, list[tuple[str, float]]]) -> str:
    names = list(dict.fromkeys(name for row in parts.values() for name, _ in row))
    bars = []
    for corpus, row in parts.items():
        cells = "".join(
            f'<i class="c{names.index(name) % 6}" style="width:{100 * share:.2f}%" '
            f'title="{escape(name)} {percent(share)}"></i>'
            for name, share in row
        )
        bars.append(f'<span>{corpus}</span><span class="bar">{cells}</span>')
    last = dict(parts[CORPORA[-1]])
    legend = "".join(
        f'<li><i class="c{i % 6}"></i>{escape(name)} {percent(last.get(name, 0.0))}</li>'
        for i, name in enumerate(names)
    )
    return f'<figure><figcaption>{title}</figcaption><div class="bars">{"".join(bars)}</div><ul>{legend}</ul></figure>'


def frequent(report: Report) -> str:
    """The most frequent words and phrases after cleaning: of all kinds open, of each kind folded."""
    found = dig(report.metrics.get("analyze", {}), "corpora.clean") or {}
    parts = []
    for kind in sorted(found, key=lambda name: (name != ALL, name)):
        lists = "".join(
            _ranking(title, dig(found[kind], f"{key}.{n}".rstrip("."))) for title, key, n in LISTS
        )
        if lists:
            label = "all kinds" if kind == ALL else escape(kind)
            parts.append(
                f"<details{' open' if kind == ALL else ''}><summary>{label}</summary>"
                f'<div class="rankings">{lists}</div></details>'
            )
    return "".join(parts)


def _ranking(title: str, entries: Sequence[Sequence[Any]] | None) -> str:
    """(text, count) or (text, count, error) as a list with bars."""
    if not entries:
        return ""
    most = max(entry[1] for entry in entries)
    rows = []
    for text, times, *error in entries[:LISTED]:
        number = count(times) + (f"<small> + {count(error[0])}</small>" if error and error[0] else "")
        rows.append(
            f'<li><i style="width:{100 * times / most:.1f}%"></i><span>{escape(str(text))}</span><b>{number}</b></li>'
        )
    return f'<div class="ranking"><h4>{title}</h4><ol>{"".join(rows)}</ol></div>'


def dropped(report: Report) -> str:
    """Every reason with its documents by kind and the beginnings of some of them."""
    found = report.metrics.get("analyze", {})
    return "".join(
        f'<article class="reason"><h4>{escape(stage)}: {escape(reason.replace("_", " "))}'
        f"<span>{_sizes(kinds)}</span></h4>{''.join(_examples(dig(found, 'examples') or {}, stage, reason))}</article>"
        for stage, reasons in (found.get("dropped") or {}).items()
        for reason, kinds in sorted(reasons.items(), key=lambda item: -_docs(item[1]))
    )


def _docs(kinds: dict[str, Any]) -> int:
    return sum(numbers["docs"] for numbers in kinds.values())


def _sizes(kinds: dict[str, Any]) -> str:
    parts = [f"{count(numbers['docs'])} {escape(kind)}" for kind, numbers in sorted(kinds.items())]
    total = sum(numbers["bytes"] for numbers in kinds.values())
    return f"{', '.join(parts)}; {short(total, 'B')}"


def _examples(examples: dict[str, Any], stage: str, reason: str) -> Iterator[str]:
    for example in examples.get(stage, {}).get(reason, ()):
        facts = {name: value for name, value in example.get("facts", {}).items() if value not in (None, "")}
        notes = ", ".join(
            f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
            for name, value in sorted(facts.items())
        )
        yield (
            f"<blockquote>{escape(example['text']) or '<em>(nothing)</em>'}"
            f"<footer>{escape(example['id'])}{f'; {escape(notes)}' if notes else ''}</footer></blockquote>"
        )
