"""analyze_plots: the pictures of the analysis, drawn from its CSV files, equal bytes from equal tables.

PNG files hold no date and no version: matplotlib's `Software` field is left out. Fonts are the ones that
come with matplotlib.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_STYLES = {"raw": ":", "clean": "-"}
_COLOURS = ("#1f4e79", "#c55a11", "#548235", "#7f6000", "#7030a0")
_GREY = "#404040"


def draw(folder: Path) -> None:
    """Draw one PNG file from each CSV file in `folder` that has a painter."""
    for name, painter in _PAINTERS.items():
        with open(folder / f"{name}.csv", encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        figure = painter(rows)
        figure.savefig(folder / f"{name}.png", dpi=_DPI, metadata={"Software": None})


def _zipf(rows: list[dict[str, str]]) -> "Figure":
    """Occurrences over rank, both logarithmic, one line for each kind before and after cleaning."""
    figure, axes = _figure(1)
    for (corpus, kind), group in _groups(rows).items():
        x, y = _column(group, "rank"), _column(group, "count")
        axes[0].plot(x, y, _STYLES[corpus], color=_colour(rows, kind), label=f"{kind}, {corpus}")
        line = [row for row in group if row["fit"]]
        if line and (corpus, kind) == ("clean", "all"):
            axes[0].plot(_column(line, "rank"), _column(line, "fit"), "r--", lw=1, label="fitted line")
    axes[0].set(xscale="log", yscale="log", xlabel="rank of the word", ylabel="occurrences")
    axes[0].set_title("Word frequency by rank (Zipf)")
    axes[0].legend(fontsize=8)
    return figure


def _heaps(rows: list[dict[str, str]]) -> "Figure":
    """Distinct words over words read, both logarithmic."""
    figure, axes = _figure(1)
    for (corpus, kind), group in _groups(rows).items():
        x, y = _column(group, "words"), _column(group, "types")
        axes[0].plot(x, y, _STYLES[corpus], color=_colour(rows, kind), label=f"{kind}, {corpus}")
        line = [row for row in group if row["fit"]]
        if line and (corpus, kind) == ("clean", "all"):
            axes[0].plot(_column(line, "words"), _column(line, "fit"), "r--", lw=1, label="fitted law")
    axes[0].set(xscale="log", yscale="log", xlabel="words read", ylabel="distinct words met")
    axes[0].set_title("Vocabulary growth (Heaps)")
    axes[0].legend(fontsize=8)
    return figure


def _repetition(rows: list[dict[str, str]]) -> "Figure":
    """Share of the n-grams of a document that occurred before in it, over n; the mean and the worst twentieth."""
    figure, axes = _figure(2)
    for axis, column, title in zip(
        axes, ("mean", "p95"), ("mean of the documents", "95th percentile of the documents"), strict=True
    ):
        for (corpus, kind), group in _groups(rows).items():
            shares = [100 * value or float("nan") for value in _column(group, column)]  # no 0 on a log axis
            axis.plot(
                _column(group, "n"),
                shares,
                _STYLES[corpus],
                marker="o",
                markersize=3,
                color=_colour(rows, kind),
                label=f"{kind}, {corpus}",
            )
        axis.set(title=f"Repeated n-grams: {title}", ylabel="% seen before", yscale="log")
        axis.legend(fontsize=8)
    axes[-1].set_xlabel("words in the n-gram")
    return figure


def _shares(rows: list[dict[str, str]]) -> "Figure":
    """What the corpus is made of: bytes by kind, letters by script, before and after cleaning."""
    figure, axes = _figure(2, height=1.2)
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != "all"]
    parts: list[tuple[str, str, Any, dict[str, float]]] = []
    for kind in kinds:
        sizes = {row["corpus"]: float(row["bytes"]) for row in rows if row["kind"] == kind}
        parts.append(("kind", kind, _colour(rows, kind), sizes))
    for number, script in enumerate(("latin", "han", "other")):
        sizes = {row["corpus"]: float(row[script]) for row in rows if row["kind"] == "all"}
        if any(sizes.values()):
            parts.append(("script", script, _COLOURS[::-1][number], sizes))
    for axis, group, title in zip(
        axes, ("kind", "script"), ("Bytes of text by kind", "Letters by script"), strict=True
    ):
        chosen = [part for part in parts if part[0] == group]
        left = dict.fromkeys(_STYLES, 0.0)
        for _, label, colour, sizes in chosen:
            widths = [sizes.get(corpus, 0.0) / 1e6 for corpus in _STYLES]
            axis.barh(list(_STYLES), widths, left=list(left.values()), color=colour, label=label)
            left = {corpus: left[corpus] + width for corpus, width in zip(_STYLES, widths, strict=True)}
        axis.set(title=title, xlabel="millions")
        axis.invert_yaxis()
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _lengths(rows: list[dict[str, str]]) -> "Figure":
    """Documents over length, one panel for each kind, before (outline) and after cleaning (filled)."""
    rows = [row for row in rows if row["corpus"] in _STYLES]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure, axes = _figure(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        for corpus in _STYLES:
            group = [row for row in rows if (row["corpus"], row["kind"]) == (corpus, kind)]
            edges = [*_column(group, "min_words"), *[value + 1 for value in _column(group, "max_words")[-1:]]]
            if corpus == "clean":
                axis.stairs(
                    _column(group, "docs"),
                    edges,
                    fill=True,
                    alpha=0.6,
                    color=_colour(rows, kind),
                    label=corpus,
                )
            else:
                axis.stairs(_column(group, "docs"), edges, color="black", label=corpus)
        axis.set(xscale="log", ylabel="documents", title=f"Document length: {kind}")
        axis.legend(fontsize=8)
    axes[-1].set_xlabel("words in the document")
    return figure


def _reasons(rows: list[dict[str, str]]) -> "Figure":
    """Dropped documents for each stage and reason, stacked by kind."""
    figure, axes = _figure(1)
    labels = list(dict.fromkeys(f"{row['stage']}: {row['reason']}" for row in rows))
    left = dict.fromkeys(labels, 0.0)
    for kind in sorted({row["kind"] for row in rows}):
        group = {
            f"{row['stage']}: {row['reason']}": float(row["docs"]) for row in rows if row["kind"] == kind
        }
        widths = [group.get(label, 0.0) for label in labels]
        axes[0].barh(
            labels, widths, left=[left[label] for label in labels], color=_colour(rows, kind), label=kind
        )
        left = {label: left[label] + group.get(label, 0.0) for label in labels}
    for label, docs in left.items():
        axes[0].annotate(f" {docs:.0f}", (docs, label), va="center", fontsize=8)
    axes[0].margins(x=0.1)
    axes[0].set(xlabel="documents", title="Dropped documents by stage and reason")
    axes[0].invert_yaxis()
    if rows:
        axes[0].legend(fontsize=8)
    else:
        axes[0].text(0.5, 0.5, "nothing was dropped", ha="center", va="center", transform=axes[0].transAxes)
    return figure


_PAINTERS = {
    "zipf": _zipf,
    "heaps": _heaps,
    "lengths": _lengths,
    "repetition": _repetition,
    "shares": _shares,
    "reasons": _reasons,
}


def _figure(n_panels: int, height: float = 3.0) -> "tuple[Figure, list[Axes]]":
    """A figure on the Agg canvas with panels below each other; no global state of pyplot is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.2 + height * n_panels), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(n_panels, 1, number + 1) for number in range(n_panels)]
    for axis in axes:
        axis.grid(visible=True, alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes


def _groups(rows: list[dict[str, str]]) -> dict[tuple[str, str], list[dict[str, str]]]:
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["corpus"], row["kind"]), []).append(row)
    return groups


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def _colour(rows: list[dict[str, str]], kind: str) -> Any:
    """The same colour for the same kind in every picture; grey for all together."""
    kinds = sorted({row["kind"] for row in rows} - {"all"})
    return _GREY if kind == "all" else _COLOURS[kinds.index(kind) % len(_COLOURS)]
