"""Every module has its page, every page its module; what pages repeat is true; links lead somewhere."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from llm import docs

ROOT = Path(__file__).resolve().parents[2]
# pages about more than one module
FREE_PAGES = {"benchmarks", "experiments", "index", "guide", "glossary", "papers", "log"}
FENCE = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence) *$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def names(*folders: str) -> set[str]:
    """Module names as their pages are called: `nn/mixers/gqa`, `stages/pack`."""
    found = set()
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "__init__.py":
                base = ROOT / "llm" if folder == "llm" else ROOT
                found.add(file.relative_to(base).with_suffix("").as_posix())
    return found


def pages() -> set[str]:
    return {
        page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")
    }


def test_every_module_has_its_page() -> None:
    assert sorted(names("llm", "stages") - pages()) == []


def test_every_page_has_its_module() -> None:
    alone = pages() - names("llm", "stages") - FREE_PAGES
    assert sorted(page for page in alone if not page.startswith("adr/")) == []


def test_no_page_is_an_empty_shell() -> None:
    short = [page.name for page in (ROOT / "docs").rglob("*.md") if len(page.read_text("utf-8").split()) < 40]
    assert short == []


def test_no_page_has_a_gap_to_be_filled() -> None:
    gaps = re.compile(r"@@|\bTODO\b|\bTBD\b|\bFIXME\b|\bXXX\b")
    found = [
        page.relative_to(ROOT).as_posix() for page in docs.pages(ROOT) if gaps.search(page.read_text("utf-8"))
    ]
    assert found == []


def test_generated_blocks_are_in_sync() -> None:
    stale = [page.relative_to(ROOT).as_posix() for page in docs.update(ROOT, check=True)]
    assert stale == [], "run: llm docs"


def test_readme_holds_the_results_of_the_report() -> None:
    report = (ROOT / "metrics" / "report.md").read_text(encoding="utf-8")
    table = report.partition("\n")[2].strip()
    assert table.count("|") > 20
    for readme in ("README.md", "README.zh.md"):
        assert table in (ROOT / readme).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", docs.pages(ROOT), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    broken = [link for link in LINK.findall(text) if not leads_somewhere(page, link)]
    assert broken == []


def leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith(("http://", "https://", "mailto:")):
        return True
    path, _, anchor = link.partition("#")
    target = page if not path else (page.parent / path).resolve()
    if not target.exists() or ROOT not in [target, *target.parents]:
        return False
    return not anchor or target.suffix != ".md" or anchor in anchors(target)


def anchors(page: Path) -> set[str]:
    """Heading anchors as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def runnable() -> list[Path]:
    return [page for page in docs.pages(ROOT) if "```python run" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_runnable_blocks_print_what_the_page_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block marked `python run` runs; when a block marked `output` follows, it holds what was printed."""
    monkeypatch.chdir(ROOT)
    blocks = [(m["info"].strip(), m["body"]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]
    scope: dict[str, object] = {}
    checked = 0
    for (info, body), (next_info, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if info != "python run":
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(body, str(page), "exec"), scope)
        checked += 1
        if next_info == "output":
            assert out.getvalue().strip() == expected.strip()
    assert checked > 0
