"""markdown: the report as Markdown, deterministic: equal metrics give equal bytes, machine facts stay out."""

from llm.report.collect import Report
from llm.report.tables import (
    Table,
    changes_table,
    funnel_table,
    models_table,
    quantized_table,
    tokens_table,
    training_table,
)


def to_markdown(report: Report) -> str:
    """metrics/report.md: a title, then one section for each table that has rows."""
    tables = [
        models_table(report),
        changes_table(report),
        quantized_table(report),
        training_table(report),
        funnel_table(report),
        tokens_table(report),
    ]
    return "# Report\n\n" + "\n".join(section(table) for table in tables if table.rows)


def summary(report: Report) -> str:
    """The models, what each stage changed, and the quantized forms: what `make repro` prints at its end."""
    tables = [models_table(report), changes_table(report), quantized_table(report)]
    return "\n".join(section(table) for table in tables if table.rows).rstrip()


def section(table: Table) -> str:
    """A heading, a note and a table whose columns line up in a terminal too."""
    grid = [table.head, *table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.head))]
    rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines = [_line(table.head, widths), f"|{'|'.join(rule)}|", *(_line(row, widths) for row in table.rows)]
    note = f"{table.note}\n\n" if table.note else ""
    return f"## {table.title}\n\n{note}" + "\n".join(lines) + "\n"


def _line(cells: list[str], widths: list[int]) -> str:
    first, *others = cells
    padded = [
        first.ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"
