"""What a stage imports: the static closure of its script, with each family's chosen kinds by template.

`python tests/pipeline/closure.py` prints the code deps every stage of dvc.yaml must list.
"""

import ast
import dataclasses
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from llm import registry  # noqa: E402
from llm.params import Family  # noqa: E402

# Kinds a stage gets from its matrix in dvc.yaml instead of from a key `….kind`.
MATRIX = {"quantize": {"method": "llm.compress.quant"}}
FOLDERS = ("llm/nn/kernels",)  # listed as a whole: every mixer and every loss is built on some of it
STAGES = ("download", "dedup", "filter", "analyze", "tokenizer", "encode", "pack", "pretrain", "sft", "reward",
          "align", "eval", "quantize", "report")  # fmt: skip


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


@cache
def imports(name: str) -> frozenset[str]:
    """Project modules named by any import statement of one module, also those inside functions."""
    file = module_file(name)
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(
        n
        for n in found
        if n.split(".")[0] in ("llm", "stages") and module_file(n) and module_file(n).name != "__init__.py"
    )


def closure(*names: str) -> set[str]:
    """Every project module reachable from `names` by static imports."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imports(name)
    return seen


def slots(cls: type, prefix: str) -> dict[str, tuple[str, bool]]:
    """The keys of a params dataclass that choose a kind: {"model.mixer": ("llm.nn.mixers", nested)}."""
    found: dict[str, tuple[str, bool]] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        path = f"{prefix}.{name}" if prefix else name
        options = [option for option in get_args(hint) if get_origin(option) is Annotated]
        if options and get_origin(hint) is not Annotated:
            [hint] = options  # an optional slot: Annotated[...] | None
        if get_origin(hint) is Annotated:
            for mark in get_args(hint)[1:]:
                if isinstance(mark, Family):
                    found[path] = (mark.package, mark.nested)
        elif dataclasses.is_dataclass(hint):
            found |= slots(hint, path)
    return found


def nested_slots(
    found: dict[str, tuple[str, bool]], inside: tuple[str, ...] = ()
) -> dict[str, tuple[str, bool]]:
    """Slots inside the Configs of slots (a GRPO config has its own optimizer), for every kind.

    A hybrid mixer has slots for mixers; a second level of the same family is refused by its Config.
    """
    out = dict(found)
    for path, (package, nested) in found.items():
        if package in inside:
            continue
        for kind in registry.kinds(package):
            inner = slots(registry.module(package, kind).Config, f"{path}.{kind}" if nested else path)
            out |= nested_slots(inner, (*inside, package))
    return out


def stage_slots(stage: str) -> dict[str, tuple[str, bool]]:
    """All slots whose kinds a stage may import, by params.yaml key."""
    script = importlib.import_module(f"stages.{stage}")
    found = slots(script.Params, "") if hasattr(script, "Params") else {}
    if "llm.nn.model" in closure(f"stages.{stage}"):
        found |= slots(importlib.import_module("llm.nn.model").ModelConfig, "model")
    return nested_slots(found)


def lookup(params: dict, key: str):
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def stage_deps(stage: str, params: dict) -> tuple[set[str], set[str]]:
    """(templates, files): `llm/nn/mixers/${model.mixer.kind}.py`, and what any kind of these families shares with
    others: DVC cannot choose among those by a parameter, and too few would leave stale results behind."""
    names = {f"stages.{stage}"}
    templates: set[str] = set()
    variants: set[str] = set()
    chosen: set[str] = set()
    for key, (package, _) in stage_slots(stage).items():
        if lookup(params, f"{key}.kind") is None:
            continue
        templates.add(f"{package.replace('.', '/')}/${{{key}.kind}}.py")
        variants |= {f"{package}.{kind}" for kind in registry.kinds(package)}
        chosen.add(f"{package}.{lookup(params, f'{key}.kind')}")
    for key, package in MATRIX.get(stage, {}).items():
        templates.add(f"{package.replace('.', '/')}/${{item.{key}}}.py")
        variants |= {f"{package}.{kind}" for kind in registry.kinds(package)}
        chosen |= variants
    modules = (closure(*names, *variants) - variants) | (closure(*names) - chosen)
    files = {module_file(n).relative_to(ROOT).as_posix() for n in modules}
    return templates, {
        next((folder for folder in FOLDERS if file.startswith(f"{folder}/")), file) for file in files
    }


if __name__ == "__main__":
    from llm.params import read_yaml

    everything = read_yaml(ROOT / "params.yaml")
    for stage_name in STAGES if len(sys.argv) < 2 else sys.argv[1:]:
        print(f"  {stage_name}:")
        for group in stage_deps(stage_name, everything):
            for line in sorted(group):
                print(f"      - {line}")
