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
                    name=stage.addressing.rpartition(":")[
                        2
                    ],  # elsewhere than in the root DVC puts the path before it
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
    answers: dict[str, list[str]] = {}  # equal answers share a row
    for key in keys:
        answers.setdefault(_short(reruns(stages, key), every), []).append(f"`{key}`")
    rows = [(", ".join(edits) + " in params.yaml", answer) for answer, edits in answers.items()]
    rows += [(f"`{file}`", _short(reruns(stages, file), every)) for file in SHOWN_FILES]
    lines = ["| edit | stages that run |", "|---|---|"]
    return "\n".join([*lines, *(f"| {edit} | {answer} |" for edit, answer in rows)])


def mermaid(root: Path) -> str:
    """The pipeline as a Mermaid flow chart: one box for all items of a stage, no arrow that follows from others."""
    stages = load_stages(root)
    names = list(dict.fromkeys(_group(stage.name) for stage in stages))
    direct = {
        name: {_group(s.name) for s in stages for b in stages if _group(b.name) == name and _feeds(b, s)}
        - {name}
        for name in names
    }
    after: dict[str, set[str]] = {}
    for name in reversed(names):  # pipeline order: what follows is known already
        after[name] = direct[name].union(*(after[follower] for follower in direct[name]))
    lines = ["```mermaid", "flowchart LR"]
    for name in names:
        implied = set().union(*(after[follower] for follower in direct[name]))
        lines += [f"    {name} --> {follower}" for follower in names if follower in direct[name] - implied]
    return "\n".join([*lines, "```"])


def _group(name: str) -> str:
    return name.partition("@")[0]


def _rank(stages: list[Stage], key: str) -> tuple[int, str]:
    """Keys in the order of the first stage that names them."""
    return next(i for i, stage in enumerate(stages) if key in stage.params), key


def _short(names: list[str], every: list[str]) -> str:
    """`eval` for all items of `eval@…`; `pack and all after it` for a whole tail of the pipeline."""
    if not names:
        return "none"
    if names == every:
        return "all"
    groups = list(dict.fromkeys(_group(name) for name in every))
    whole = [group for group in groups if {name for name in every if _group(name) == group} <= set(names)]
    tail = groups[groups.index(_group(names[0])) :]
    if whole == tail and len(tail) > 2:
        return f"{tail[0]} and all after it"
    labels = [_group(name) if _group(name) in whole else name for name in names]
    return ", ".join(dict.fromkeys(labels))


def _feeds(before: Stage, after: Stage) -> bool:
    return any(_same_branch(out, dep, "/") for out in before.outs for dep in after.deps)


def _same_branch(a: str, b: str, separator: str) -> bool:
    """True when a is b, lies below b, or holds b."""
    shorter, longer = sorted(
        (PurePath(a.replace(separator, "/")), PurePath(b.replace(separator, "/"))), key=lambda p: len(p.parts)
    )
    return longer.parts[: len(shorter.parts)] == shorter.parts
