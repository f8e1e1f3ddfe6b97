"""params: params.yaml -> frozen dataclasses, strictly, every problem reported at once.

This module knows no stage and no family. A dataclass field that chooses a variant is annotated with
the folder the variants live in, and the folder is the registry (docs/adr/0002-folder-is-the-registry.md):

    mixer: Annotated[MixerConfig, Family("llm.nn.mixers")]      # {kind: gqa, n_heads: 4, ...}
    align: Annotated[AlignConfig, Family("llm.align.methods", nested=True)]
                                                                # {kind: dpo, dpo: {...}, grpo: {...}}

`kind` names the module; the other keys are the fields of that module's `Config`. With `nested` every
kind keeps its own mapping, so that changing `kind` alone switches between prepared variants; a kind without
a mapping has its defaults, and the inline form is understood as well (it is what model folders store).
"""

import dataclasses
import difflib
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from llm import registry

T = TypeVar("T")


class ParamsError(ValueError):
    """One or more problems in params.yaml; the message holds one line for each."""


@dataclass(frozen=True)
class Family:
    """Marks a field whose value is the `Config` of one module in `package`."""

    package: str
    nested: bool = False


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """SafeLoader with YAML 1.2 floats: DVC reads `1e-4` as a number, so must we."""


_Loader.yaml_implicit_resolvers = {
    key: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:float"]
    for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping. Raises ParamsError when the file is missing, unreadable or no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; run it from the repository root, or: llm preset cpu"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"{path}: not readable as YAML ({reason})") from None
    if not isinstance(data, dict):
        raise ParamsError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def load_params(cls: type[T], path: Path = Path("params.yaml")) -> T:
    """Build `cls` from the sections of `path` that its fields name; other sections are ignored.

    Raises:
        ParamsError: unknown, missing or ill-typed keys, all of them in one message.
    """
    data = read_yaml(path)
    wanted = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    problems = []
    for name in wanted:
        if name not in data:
            problems.append(f"{path}: missing section '{name}'{_hint(name, list(data))}")
    if problems:
        raise ParamsError("\n".join(problems))
    return from_dict(cls, {name: data[name] for name in wanted}, where=str(path))


def from_dict(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a plain mapping; `where` prefixes every message."""
    problems: list[str] = []
    value = _dataclass(cls, data, where, problems)
    if problems:
        raise ParamsError("\n".join(problems))
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Inverse of `from_dict`: plain JSON-able mapping, with `kind` restored for variants (inline form)."""
    return _plain(config)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        out = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if type(value).__name__ == "Config":
            out = {"kind": registry.kind_of(value), **out}
        return out
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _dataclass(cls: Any, data: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(data, dict):
        problems.append(f"{where}: expected a mapping, found {data!r}")
        return None
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before = len(problems)
    for key in data:
        if key not in fields:
            problems.append(
                f"{where}.{key}: unknown key{_hint(key, list(fields))} (known: {', '.join(fields)})"
            )
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}", problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{where}.{name}: missing key ({_describe(hints[name])})")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def _variant(family: Family, data: Any, where: str, problems: list[str]) -> Any:
    kinds = registry.kinds(family.package)
    if not isinstance(data, dict) or "kind" not in data:
        problems.append(f"{where}.kind: missing key (one of {', '.join(kinds)})")
        return None
    kind = data["kind"]
    if kind not in kinds:
        problems.append(f"{where}.kind: {kind!r} is not one of {', '.join(kinds)}{_hint(kind, kinds)}")
        return None
    config = registry.module(family.package, kind).Config
    if not family.nested:
        return _dataclass(config, {k: v for k, v in data.items() if k != "kind"}, where, problems)
    if _inline(data, kinds):
        return _dataclass(config, {k: v for k, v in data.items() if k != "kind"}, where, problems)
    for key in data:
        if key != "kind" and key not in kinds:
            problems.append(f"{where}.{key}: unknown key{_hint(key, kinds)} (kinds: {', '.join(kinds)})")
    if kind not in data and _required(config):
        problems.append(f"{where}.{kind}: missing mapping of the chosen kind")
        return None
    return _dataclass(config, data.get(kind, {}), f"{where}.{kind}", problems)


def _inline(data: dict[str, Any], kinds: list[str]) -> bool:
    """True for `{kind: gqa, n_heads: 4}`, the form of `to_dict`, where `{kind: gqa, gqa: {…}}` is possible too."""
    others = {key: value for key, value in data.items() if key != "kind"}
    return any(not isinstance(value, dict) for value in others.values()) and not others.keys() & set(kinds)


def _required(config: Any) -> bool:
    missing = dataclasses.MISSING
    return any(f.default is missing and f.default_factory is missing for f in dataclasses.fields(config))


def _value(hint: Any, data: Any, where: str, problems: list[str]) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        family = next((mark for mark in marks if isinstance(mark, Family)), None)
        return _variant(family, data, where, problems) if family else _value(inner, data, where, problems)
    if origin is Literal:
        if data not in get_args(hint):
            options = ", ".join(str(option) for option in get_args(hint))
            problems.append(
                f"{where}: {data!r} is not one of {options}{_hint(data, [str(o) for o in get_args(hint)])}"
            )
        return data
    if origin in (Union, types.UnionType):
        if data is None and type(None) in get_args(hint):
            return None
        [inner] = [option for option in get_args(hint) if option is not type(None)]
        return _value(inner, data, where, problems)
    if origin is tuple:
        if not isinstance(data, list):
            problems.append(f"{where}: expected a list, found {data!r}")
            return None
        return tuple(
            _value(get_args(hint)[0], item, f"{where}[{i}]", problems) for i, item in enumerate(data)
        )
    if origin is dict:
        if not isinstance(data, dict):
            problems.append(f"{where}: expected a mapping, found {data!r}")
            return None
        return {
            key: _value(get_args(hint)[1], item, f"{where}.{key}", problems) for key, item in data.items()
        }
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, data, where, problems)
    return _scalar(hint, data, where, problems)


def _scalar(hint: Any, data: Any, where: str, problems: list[str]) -> Any:
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        problems.append(f"{where}: expected {_describe(hint)}, found {data!r} ({type(data).__name__})")
    return data


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    return getattr(hint, "__name__", str(hint))
