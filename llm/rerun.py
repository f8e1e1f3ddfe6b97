"""rerun: which stages an edit of params.yaml or of a source file re-runs, computed from dvc.yaml.

An upper bound: a stage whose inputs turn out byte-equal after the stages before it have run is skipped.
"""

from dataclasses import dataclass
from pathlib import Path, PurePath

# Source files shown in the README beside the sections of params.yaml: one for each kind of answer.
SHOWN_FILES = (
    "llm/nn/mixers/gqa.py",
    "llm/nn/position/none.py",
    "llm/train/loop.py",
    "llm/infer/generate.py",
    "stages/eval.py",
    "docs/guide.md",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One concrete stage: `pack@pretrain`. params: the keys it names; deps and outs: paths from the root."""

    name: str
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def load_stages(root: Path) -> list[Stage]:
    """The stages of dvc.yaml with every template filled in, in pipeline order."""
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            found = [
                Stage(
                    name=stage.addressing,
                    params=tuple(
                        key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params
                    ),
                    deps=tuple(
                        repo.fs.relpath(dep.fs_path, repo.root_dir)
                        for dep in stage.deps
                        if not isinstance(dep, ParamsDependency)
                    ),
                    outs=tuple(repo.fs.relpath(out.fs_path, repo.root_dir) for out in stage.outs),
                )
                for stage in repo.index.stages
            ]
    except DvcException as error:
        raise ValueError(f"dvc.yaml: {error}; run it from a clone that dvc can read") from None
    return in_order(found)


def in_order(stages: list[Stage]) -> list[Stage]:
    """Topological order; ties keep the order of dvc.yaml."""
    ordered: list[Stage] = []
    waiting = list(stages)
    while waiting:
        ready = next(s for s in waiting if not any(_feeds(other, s) for other in waiting if other is not s))
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def reruns(stages: list[Stage], edit: str) -> list[str]:
    """Names of the stages that an edit re-runs: the ones it touches and all that follow.

    edit: a key of params.yaml (`pretrain`, `pretrain.steps`) or a file (`llm/train/loop.py`).
    """
    dirty: list[Stage] = []
    for stage in in_order(stages):
        touched = any(_same_branch(edit, key, ".") for key in stage.params) or any(
            _same_branch(edit, dep, "/") for dep in stage.deps
        )
        if touched or any(_feeds(before, stage) for before in dirty):
            dirty.append(stage)
    return [stage.name for stage in dirty]


def rerun_table(root: Path) -> str:
    """The Markdown table of the README: every key that dvc.yaml names and a few source files."""
    stages = load_stages(root)
    every = [stage.name for stage in stages]
    keys = sorted({key for stage in stages for key in stage.params}, key=lambda key: _rank(stages, key))
    rows = [(f"`{key}` in params.yaml", reruns(stages, key)) for key in keys]
    rows += [(f"`{file}`", reruns(stages, file)) for file in SHOWN_FILES]
    lines = ["| edit | stages that run |", "|---|---|"]
    lines += [f"| {edit} | {_short(names, every)} |" for edit, names in rows]
    return "\n".join(lines)


def mermaid(root: Path) -> str:
    """The pipeline as a Mermaid flow chart, the items of a `foreach` or `matrix` drawn as one box."""
    stages = load_stages(root)
    edges = {
        (_group(before.name), _group(after.name)): None
        for after in stages
        for before in stages
        if _group(before.name) != _group(after.name) and _feeds(before, after)
    }
    lines = ["```mermaid", "flowchart LR"]
    lines += [f"    {before} --> {after}" for before, after in edges]
    return "\n".join([*lines, "```"])


def _group(name: str) -> str:
    return name.partition("@")[0]


def _rank(stages: list[Stage], key: str) -> tuple[int, str]:
    """Keys in the order of the first stage that names them."""
    return next(i for i, stage in enumerate(stages) if key in stage.params), key


def _short(names: list[str], every: list[str]) -> str:
    """`eval@base, eval@sft, …` becomes `eval` when all items of a stage are meant."""
    if not names:
        return "none"
    if names == every:
        return "all"
    out: list[str] = []
    for name in names:
        items = [other for other in every if _group(other) == _group(name)]
        label = _group(name) if set(items) <= set(names) else name
        if label not in out:
            out.append(label)
    return ", ".join(out)


def _feeds(before: Stage, after: Stage) -> bool:
    return any(_same_branch(out, dep, "/") for out in before.outs for dep in after.deps)


def _same_branch(a: str, b: str, separator: str) -> bool:
    """True when a is b, lies below b, or holds b."""
    shorter, longer = sorted(
        (PurePath(a.replace(separator, "/")), PurePath(b.replace(separator, "/"))), key=lambda p: len(p.parts)
    )
    return longer.parts[: len(shorter.parts)] == shorter.parts
