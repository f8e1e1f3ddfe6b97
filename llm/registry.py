"""registry: the folder is the registry of a family; `kind` is a file name.

`llm/nn/mixers/gqa.py` is the kind `gqa` of the family `llm.nn.mixers`. Such a module defines `Config`
(a frozen dataclass) and `build` (a class or function that takes the Config first). Nothing imports all
members: DVC can then depend on exactly the chosen file (docs/adr/0002-folder-is-the-registry.md).
`base.py` and names that start with `_` are shared code, not kinds.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent


def families() -> list[str]:
    """Every package below `llm` that holds a `base.py` and members with a `Config`, as dotted names."""
    found = []
    for base in sorted((_ROOT / "llm").rglob("base.py")):
        package = ".".join(base.parent.relative_to(_ROOT).parts)
        members = [base.with_name(f"{kind}.py").read_text(encoding="utf-8") for kind in kinds(package)]
        if any("\nclass Config" in text for text in members):
            found.append(package)
    return found


def kinds(package: str) -> list[str]:
    """The kinds of one family, sorted."""
    folder = _ROOT.joinpath(*package.split("."))
    return sorted(
        path.stem for path in folder.glob("*.py") if path.stem != "base" and not path.stem.startswith("_")
    )


def module(package: str, kind: str) -> ModuleType:
    """Import the module of one kind. Raises ValueError for a kind that has no file."""
    if kind not in kinds(package):
        raise ValueError(f"{package}: '{kind}' is not one of {', '.join(kinds(package))}")
    return importlib.import_module(f"{package}.{kind}")


def kind_of(config: Any) -> str:
    """The kind a `Config` instance belongs to: the name of the file that defines it."""
    return type(config).__module__.rsplit(".", 1)[-1]


def build(config: Any, *args: Any, **kwargs: Any) -> Any:
    """Build the variant a `Config` describes: `build(config, ...)` of the module that defines it."""
    return importlib.import_module(type(config).__module__).build(config, *args, **kwargs)
