"""card: the report card in both its forms."""

from pathlib import Path

from llm.report.collect import Report
from llm.report.markdown import to_markdown
from llm.report.page import to_html
from llm.runtime import atomic_file


def write_card(report: Report, *, markdown: Path, html: Path) -> None:
    """Write the Markdown table (deterministic, tracked) and the page (with machine facts, not tracked).

    Raises:
        ValueError: no model has been evaluated; an empty report is no result.
    """
    if not report.evals:
        raise ValueError("metrics/eval: no model has been evaluated; run: dvc repro")
    for path, text in ((markdown, to_markdown(report)), (html, to_html(report))):
        with atomic_file(path) as handle:
            handle.write(text)
