"""charts: small SVG drawings for the report page: learning curves, estimates with error bars, the data funnel.

Colours and fonts come from the page's style sheet, so that the drawings follow light and dark mode.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from llm.report.collect import MODELS
from llm.report.tables import Row, count, decimal, short

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 26


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """One line over the step, with its last value written out. Empty without two points."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) < 2:
        return ""
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    ticks = nice_ticks(min(ys), max(ys))
    step = ticks[1] - ticks[0]
    digits = next(d for d in range(13) if math.isclose(step, round(step, d), rel_tol=1e-6))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    to_x, to_y = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT), _scale(low, high, HEIGHT - BOTTOM, TOP)
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{to_y(t):.1f}" y2="{to_y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{to_y(t) + 4:.1f}" text-anchor="end">{t:.{digits}f}</text>'
        for t in ticks
    )
    path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in finite)
    mark = "".join(
        f'<circle class="dot" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2">'
        f"<title>step {x:,.0f}: {y:.5g}</title></circle>"
        for x, y in (finite if len(finite) <= 60 else finite[-1:])
    )
    label = f"{escape(title)}, last value {ys[-1]:.4g}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <b>{ys[-1]:.4g}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{grid}'
        f'<polyline class="line" points="{path}"/>{mark}'
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 8}">{count(min(xs))}</text>'
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step {count(max(xs))}</text>'
        "</svg></figure>"
    )


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that cover low to high."""
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def whiskers(row: Row) -> str:
    """The models' estimates of one metric as dots with bars of two standard errors, on one small scale."""
    width, height = 150, 26
    ends = [
        value for s in row.scores.values() for value in (s.value - 2 * (s.se or 0), s.value + 2 * (s.se or 0))
    ]
    margin = (max(ends) - min(ends)) * 0.08 or abs(ends[0]) * 0.1 or 1.0
    to_x = _scale(min(ends) - margin, max(ends) + margin, 4, width - 4)
    parts = []
    for i, model in enumerate(MODELS):
        if (score := row.scores.get(model)) is None:
            continue
        y, wing = 5 + 8 * i, 2 * (score.se or 0)
        text = f"{model}: {decimal(score.value, 4)}" + (
            f" ± {decimal(score.se, 4)}" if score.se is not None else ""
        )
        parts.append(
            f'<g class="m-{model}"><title>{text}</title><line x1="{to_x(score.value - wing):.1f}" '
            f'x2="{to_x(score.value + wing):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle cx="{to_x(score.value):.1f}" cy="{y}" r="3"/></g>'
        )
    head = f'<svg class="whiskers" viewBox="0 0 {width} {height}" role="img" aria-label="the values with error bars">'
    return f"{head}{''.join(parts)}</svg>"


def funnel(steps: Sequence[tuple[str, int, int, bool]]) -> str:
    """A falling staircase: what is there is a full bar, what was dropped hangs at its right end."""
    if not steps:
        return ""
    most = max(docs for _, docs, _, _ in steps) or 1
    left = most
    rows = []
    for label, docs, size, level in steps:
        start = 0.0 if level else 100 * (left - docs) / most
        left = docs if level else left - docs
        kind = "level" if level else "drop"
        sign = "" if level else "−"
        width = 100 * docs / most
        rows.append(
            f'<div class="step {kind}"><span class="name">{escape(label)}</span>'
            f'<span class="bar"><i style="margin-left:{start:.2f}%;width:max({width:.2f}%,2px)"></i></span>'
            f'<span class="num">{sign}{count(docs)}</span><span class="num">{sign}{short(size, "B")}</span></div>'
        )
    return f'<div class="funnel">{"".join(rows)}</div>'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A function from [low, high] to [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)
