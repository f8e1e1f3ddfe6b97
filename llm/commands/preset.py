"""preset: switch params.yaml to one of the named choices in configs/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm.params import read_yaml
from llm.runtime import atomic_file


def apply(name: str, *, configs: Path = Path("configs"), target: Path = Path("params.yaml")) -> list[str]:
    """Copy `configs/<name>.yaml` over `target`, byte for byte; returns lines that say what changed.

    The lines hold the old values: nothing a user wrote by hand is lost without a trace.

    Raises:
        ValueError: no such preset, or a preset that is not readable as YAML; `target` is then untouched.
    """
    source = configs / f"{name}.yaml"
    known = sorted(path.stem for path in configs.glob("*.yaml"))
    if name not in known:
        choices = ", ".join(known) or "none here; run it from the repository root"
        raise ValueError(f"{source}: no such preset; presets: {choices}")
    new = read_yaml(source)
    old = read_yaml(target) if target.exists() else {}
    changes = list(differences(old, new))
    with atomic_file(target) as handle:
        handle.write(source.read_text(encoding="utf-8"))
    head = f"{target} is now the preset {name}"
    if not changes:
        return [f"{head}; no key changed"]
    return [f"{head}; {len(changes)} keys changed (old -> new):", *(f"  {line}" for line in changes)]


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
