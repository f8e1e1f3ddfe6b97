"""docs: the tool that fills generated blocks."""

from pathlib import Path

import pytest

from llm import docs

SOURCE = '''"""A module."""
LIMIT = 3

class A:
    """Doc."""

    @property
    def x(self) -> int:
        return 1  # a comment stays

def f(y):
    return y
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "a.py").write_text(SOURCE)
    (tmp_path / "docs").mkdir()
    return tmp_path


def block(kind: str, body: str = "") -> str:
    return f"<!-- {kind} -->\n{body}<!-- end {kind.split(':')[0]} -->\n"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("A.x", "@property\ndef x(self) -> int:\n    return 1  # a comment stays"),
        ("f", "def f(y):\n    return y"),
        ("LIMIT", "LIMIT = 3"),
    ],
)
def test_quote_is_the_source_dedented(root: Path, name: str, code: str) -> None:
    assert docs.quote(root, "llm/a.py", name) == code


def test_render_replaces_the_body_and_keeps_the_rest(root: Path) -> None:
    text = "before\n" + block("quote: llm/a.py f", "stale\n") + "after\n"
    fresh = docs.render(text, root)
    assert (
        fresh
        == "before\n" + block("quote: llm/a.py f", "```python\ndef f(y):\n    return y\n```\n") + "after\n"
    )
    assert docs.render(fresh, root) == fresh


def test_markers_in_code_fences_are_text(root: Path) -> None:
    text = "````markdown\n```python\n```\n" + block("quote: llm/none.py f") + "````\n"
    assert docs.render(text, root) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- quote: llm/a.py f -->\n", "line 1: .* is never closed; add a line <!-- end quote -->"),
        (block("quote: llm/b.py f"), "no file llm/b.py"),
        (block("quote: llm/a.py g"), r"llm/a.py has no 'g' \(it has LIMIT, A, A.x, f\)"),
    ],
)
def test_wrong_block_is_named(root: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        docs.render(text, root)


def test_update_names_stale_pages_and_check_writes_nothing(root: Path) -> None:
    page, other = root / "docs" / "a.md", root / "README.md"
    page.write_text(block("quote: llm/a.py f"))
    other.write_text("nothing generated\n")
    assert docs.update(root, check=True) == [page]
    assert "def f" not in page.read_text()
    assert docs.update(root) == [page]
    assert "def f" in page.read_text()
    assert docs.update(root, check=True) == []


def test_one_wrong_page_does_not_hide_another(root: Path) -> None:
    (root / "docs" / "a.md").write_text(block("quote: llm/a.py g"))
    (root / "docs" / "b.md").write_text(block("quote: llm/c.py f"))
    (root / "docs" / "c.md").write_text(block("quote: llm/a.py f"))
    with pytest.raises(ValueError, match="docs/a.md: .*\ndocs/b.md: "):
        docs.update(root)
    assert "def f" in (root / "docs" / "c.md").read_text()


def test_results_are_the_report_without_its_title(root: Path) -> None:
    assert docs.render(block("results"), root) == block("results", f"{docs.NO_RESULTS}\n")
    (root / "metrics").mkdir()
    (root / "metrics" / "report.md").write_text("# Report\n\n| a |\n|---|\n")
    assert docs.render(block("results"), root) == block("results", "| a |\n|---|\n")


def test_help_lists_every_option(root: Path) -> None:
    text = docs.render(block("help"), root)
    assert "### llm generate MODEL\n" in text
    assert "### llm list [FAMILY]\n" in text
    assert "| `--repetition-penalty` | `1.0` |" in text
    assert "| `--prompt` | required |" in text
