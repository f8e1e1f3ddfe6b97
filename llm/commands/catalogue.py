"""catalogue: what is there to choose from, read from the files themselves, without importing them."""

import ast
import difflib
import re
from pathlib import Path

from llm import registry

ROOT = Path(__file__).resolve().parents[2]


def list_families() -> str:
    """One line for each family: its short name, how many kinds, what its base says it is."""
    rows = []
    for package in registry.families():
        title = docstring(_file(package, "base")).split("\n")[0].partition(": ")[2]
        rows.append((short_name(package), ", ".join(registry.kinds(package)), title))
    return _table([("family", "kinds", "what"), *rows]) + "\n\nOne family with sources: llm list FAMILY"


def list_kinds(family: str) -> str:
    """One entry for each kind of a family: kind, file, first docstring line, source."""
    package = find_family(family)
    blocks = [f"{package}, chosen by `kind:` in params.yaml"]
    for kind in registry.kinds(package):
        file = _file(package, kind)
        text = docstring(file)
        lines = [
            f"{kind:16} {text.split(chr(10))[0].partition(': ')[2]}",
            f"{'':16} {file.relative_to(ROOT)}",
        ]
        if paper := source_of(text):
            lines.append(f"{'':16} {paper}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def find_family(name: str) -> str:
    """The package of a family from any unique tail of its name: `mixers`, `nn.mixers`, `nn/mixers`."""
    packages = registry.families()
    wanted = name.replace("/", ".").strip(".").split(".")
    found = [package for package in packages if package.split(".")[-len(wanted) :] == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"'{name}' could be any of {', '.join(short_name(package) for package in found)}")
    short = [short_name(package) for package in packages]
    raise ValueError(f"no family '{name}'{_hint(name, short)}; families: {', '.join(short)}")


def short_name(package: str) -> str:
    """`mixers` for `llm.nn.mixers`; as many parts as make it unique among the families."""
    parts, packages = package.split("."), registry.families()
    for count in range(1, len(parts)):
        tail = parts[-count:]
        if sum(other.split(".")[-count:] == tail for other in packages) == 1:
            return ".".join(tail)
    return package


def explain(name: str, docs: Path = ROOT / "docs") -> str:
    """The text of the page that `name` names: a path below docs/ or any unique tail of one."""
    pages = {path.relative_to(docs).with_suffix("").as_posix(): path for path in sorted(docs.rglob("*.md"))}
    if not pages:
        raise ValueError(f"{docs}: no pages; the documentation is part of a clone of the repository")
    wanted = (
        name.removeprefix("docs/").removesuffix(".md").removesuffix(".py").removeprefix("llm/").split("/")
    )
    found = [page for page in pages if page.split("/")[-len(wanted) :] == wanted]
    if "/".join(wanted) in pages:
        found = ["/".join(wanted)]
    if not found:
        raise ValueError(
            f"no page '{name}'{_hint(wanted[-1], [page.split('/')[-1] for page in pages])}; see docs/guide.md"
        )
    if len(found) > 1:
        raise ValueError(
            f"'{name}' could be any of {', '.join(found)}; say which, for example: llm explain {found[0]}"
        )
    return pages[found[0]].read_text(encoding="utf-8").rstrip()


def docstring(file: Path) -> str:
    """The docstring of a module, read without importing it."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def source_of(docstring: str) -> str:
    """The `Source` entry of a variant's docstring on one line; empty when it has none."""
    match = re.search(r"^Source +(.*(?:\n {4,}.*)*)", docstring, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def _file(package: str, kind: str) -> Path:
    return ROOT.joinpath(*package.split("."), f"{kind}.py")


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
