"""preset: switch params.yaml to one of the named choices in configs/.

configs/cpu.yaml             a whole params.yaml: takes its place, byte for byte
configs/models/jamba.yaml    some keys of it: laid over what is there
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llm.params import read_yaml
from llm.runtime import atomic_file


def apply(name: str, *, configs: Path = Path("configs"), target: Path = Path("params.yaml")) -> list[str]:
    """Copy `configs/<name>.yaml` over `target`, or lay `configs/models/<name>.yaml` over its keys.

    Returns lines that say what changed. They hold the old values: nothing a user wrote by hand is lost
    without a trace.

    Raises:
        ValueError: no such preset, or a preset that is not readable as YAML; `target` is then untouched.
    """
    known = {path.stem: path for path in (*configs.glob("models/*.yaml"), *configs.glob("*.yaml"))}
    if name not in known:
        choices = ", ".join(sorted(known)) or "none here; run it from the repository root"
        raise ValueError(f"{configs / name}.yaml: no such preset; presets: {choices}")
    source = known[name]
    part = source.parent != configs
    new = read_yaml(source)
    old = read_yaml(target) if target.exists() or part else {}
    text = source.read_text(encoding="utf-8")
    if part:
        new = merge(old, new)
        text = _heading(target) + _dump(new)
    changes = list(differences(old, new))
    with atomic_file(target) as handle:
        handle.write(text)
    head = f"{target} now has the model {name}" if part else f"{target} is now the preset {name}"
    if not changes:
        return [f"{head}; no key changed"]
    return [f"{head}; {len(changes)} keys changed (old -> new):", *(f"  {line}" for line in changes)]


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with every leaf of `above` in place of its own; mappings are merged, lists replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _heading(path: Path) -> str:
    """The comments at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Lists indented below their key, as in configs/."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _dump(data: dict[str, Any]) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """`key: old -> new` for every leaf that differs, in the order of `new`, removed keys last."""
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    for key in [*after, *(key for key in before if key not in after)]:
        if key not in before:
            yield f"{key}: (absent) -> {after[key]}"
        elif key not in after:
            yield f"{key}: {before[key]} -> (absent)"
        elif before[key] != after[key]:
            yield f"{key}: {before[key]} -> {after[key]}"


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
