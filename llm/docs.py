"""docs: fills the generated blocks of Markdown pages, so that no page repeats by hand what a file says.

A block stands between two comment lines of its own; what is between them is replaced:

    <!-- quote: llm/nn/norm/rmsnorm.py RMSNorm.forward -->  the code of that name
    <!-- results -->       metrics/report.md
    <!-- dag -->           the picture of the pipeline, from dvc.yaml
    <!-- stages -->        which edit re-runs which stages, from dvc.yaml
    <!-- help -->          every `llm` command with its options
    <!-- families -->      every family with its kinds, from the folders
    <!-- papers -->        which source stands behind which file, from the docstrings

and each ends with `<!-- end quote -->` and so on. `llm docs` fills them, `llm docs --check` only compares.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import typer

from llm import registry
from llm.commands import catalogue
from llm.runtime import atomic_file

_OPEN = re.compile(r"^<!-- (quote|results|dag|stages|help|families|papers)(?:: (.+))? -->$")
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
NO_RESULTS = "No results yet: run `make repro`."


def pages(root: Path) -> list[Path]:
    """Every Markdown page of the repository that may hold a block."""
    return sorted(root.glob("*.md")) + sorted((root / "docs").rglob("*.md"))


def update(root: Path, *, check: bool = False) -> list[Path]:
    """Fill the blocks of every page; returns the pages that were out of date (with `check`: writes none).

    Raises:
        ValueError: a block that is not closed or names what does not exist; one line for each page.
    """
    stale, problems = [], []
    made: dict[str, str] = {}
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        try:
            fresh = render(text, root, made)
        except ValueError as error:
            problems.append(f"{page.relative_to(root)}: {error}")
            continue
        if fresh != text:
            stale.append(page)
            if not check:
                with atomic_file(page) as handle:
                    handle.write(fresh)
    if problems:
        raise ValueError("\n".join(problems))
    return stale


def render(text: str, root: Path, made: dict[str, str] | None = None) -> str:
    """`text` with the body of every block replaced. Markers inside code fences are left alone.

    made: blocks that were made for an earlier page, by kind; added to.
    """
    made = {} if made is None else made
    lines = text.splitlines(keepends=True)
    out: list[str] = []
    fence = ""
    i = 0
    while i < len(lines):
        line = lines[i]
        out.append(line)
        i += 1
        if match := _FENCE.match(line):
            fence = _next_fence(fence, match[1])
        elif not fence and (match := _OPEN.match(line.rstrip())):
            end = f"<!-- end {match[1]} -->"
            close = next((j for j in range(i, len(lines)) if lines[j].rstrip() == end), None)
            if close is None:
                raise ValueError(f"line {i}: {line.strip()} is never closed; add a line {end}")
            out.append(_body(match[1], match[2] or "", root, made))
            i = close
    return "".join(out)


def _next_fence(current: str, found: str) -> str:
    """The open code fence after a fence line: a fence is closed by one at least as long of the same kind."""
    if not current:
        return found
    return "" if found.startswith(current) else current


def _body(kind: str, argument: str, root: Path, made: dict[str, str]) -> str:
    if kind == "quote":
        file, _, name = argument.partition(" ")
        return f"```python\n{quote(root, file, name.strip())}\n```\n"
    if kind not in made:
        made[kind] = _MAKERS[kind](root).rstrip() + "\n"
    return made[kind]


# ---------------------------------------------------------------- quoted code


def quote(root: Path, file: str, name: str) -> str:
    """Source of `name` (`Class.method`, `function`, `CONSTANT`) in `file`, dedented, decorators included."""
    path = root / file
    if not path.is_file():
        raise ValueError(f"quote: no file {file}")
    source = path.read_text(encoding="utf-8")
    spans = dict(_names(ast.parse(source).body, ""))
    if name not in spans:
        raise ValueError(f"quote: {file} has no '{name}' (it has {', '.join(spans)})")
    first, last = spans[name]
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : last]))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """(qualified name, (first line, last line)) of every definition below `body`."""
    for node in body:
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield prefix + node.name, (first, last)
            yield from _names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield prefix + target.id, (node.lineno, last)


# ---------------------------------------------------------------- what other files say


def _results(root: Path) -> str:
    """The report without its title; a fixed sentence while there is none."""
    report = root / "metrics" / "report.md"
    if not report.is_file():
        return NO_RESULTS
    text = report.read_text(encoding="utf-8")
    return re.sub(r"\A# .*\n+", "", text)


def _dag(root: Path) -> str:
    from llm.rerun import mermaid

    return mermaid(root)


def _stages(root: Path) -> str:
    from llm.rerun import rerun_table

    return rerun_table(root)


def _families(root: Path) -> str:
    """Each kind links to its page; paths are relative to docs/, where the block stands."""
    rows = ["| family | kinds |", "|---|---|"]
    for package in registry.families():
        folder = "/".join(package.split(".")[1:])
        kinds = ", ".join(f"[{kind}]({folder}/{kind}.md)" for kind in registry.kinds(package))
        rows.append(f"| [{catalogue.short_name(package)}]({folder}/base.md) | {kinds} |")
    return "\n".join(rows)


def _papers(root: Path) -> str:
    """One row for each module whose docstring names a source; links as in `_families`."""
    rows = ["| file | source |", "|---|---|"]
    for file in sorted((root / "llm").rglob("*.py")):
        if source := catalogue.source_of(catalogue.docstring(file)):
            path = file.relative_to(root / "llm").with_suffix("")
            rows.append(
                f"| [{path.as_posix()}]({path.as_posix()}.md) | {source.replace('|', chr(92) + '|')} |"
            )
    return "\n".join(rows)


def _help(root: Path) -> str:
    """A heading and a table of arguments for each command, from the signatures in llm/cli.py."""
    from llm.cli import app

    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    return "\n\n".join(
        _command_help(prefix + (command.name or command.callback.__name__), command.callback)
        for prefix, group in groups
        for command in (group.registered_commands if group else [])
        if command.callback
    )


def _command_help(name: str, callback: Callable[..., None]) -> str:
    rows, arguments = [], ""
    for parameter in inspect.signature(callback, eval_str=True).parameters.values():
        _, info = get_args(parameter.annotation)
        if isinstance(info, typer.models.ArgumentInfo):
            label = parameter.name.upper()
            arguments += f" {label}" if parameter.default is parameter.empty else f" [{label}]"
        else:
            label = f"--{parameter.name.replace('_', '-')}"
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default}`"
        rows.append(f"| `{label}` | {'' if default == '``' else default} | {info.help} |")
    head = f"### llm {name}{arguments}\n\n{inspect.getdoc(callback)}"
    return "\n".join([head, "", "| | default | |", "|---|---|---|", *rows]) if rows else head


_MAKERS: dict[str, Callable[[Path], str]] = {
    "results": _results,
    "dag": _dag,
    "stages": _stages,
    "help": _help,
    "families": _families,
    "papers": _papers,
}
