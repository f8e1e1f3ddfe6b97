"""The laws catch planted bugs: every mutant of mutants.py must break at least one of them."""

import importlib
import importlib.util
import sys

import pytest
from torch.autograd.gradcheck import GradcheckError

from llm import registry
from tests.laws import mixer_laws
from tests.laws.mixer_cases import TINY
from tests.laws.mutants import MUTANTS


def fresh(name, monkeypatch, edit=lambda text: text):
    """Import a module anew from its source after `edit`, for the time of one test."""
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, last = name.rpartition(".")
    monkeypatch.setattr(sys.modules[package], last, module, raising=False)  # what `from package import` finds
    with open(spec.origin, encoding="utf-8") as handle:
        text = edit(handle.read())
    exec(compile(text, spec.origin, "exec"), module.__dict__)
    return module


def plant(monkeypatch, kind, name, line, wrong):
    """Replace a line of module `name` and let the kind be built on it."""

    def edit(text):
        assert text.count(line) == 1, f"{name}: {line!r} occurs {text.count(line)} times; mend mutants.py"
        return text.replace(line, wrong)

    mutated = fresh(name, monkeypatch, edit)
    own = f"llm.nn.mixers.{kind}"
    if name == own:
        return
    for attribute in ("next_step", "Context"):  # the laws read rows with these
        if hasattr(mutated, attribute):
            monkeypatch.setattr(mixer_laws, attribute, getattr(mutated, attribute))
    users = [
        own,
        *(u for u in sys.modules if u.startswith(("llm.nn.mixers._", "llm.nn.kernels.")) and u != name),
    ]
    for user in sorted(users, key=lambda user: user == own):  # the kind itself last
        fresh(user, monkeypatch)


def broken_laws(kind, index):
    """Names of the laws that the kind, as it is imported now, does not pass."""
    found = []
    for name, law in mixer_laws.LAWS.items():
        try:
            law(*mixer_laws.build(kind, TINY[kind][index]))
        except (AssertionError, GradcheckError):
            found.append(name)
    return found


@pytest.mark.parametrize("kind", sorted({mutant[1] for mutant in MUTANTS}))
def test_imported_anew_without_a_bug_all_laws_hold(kind, monkeypatch):
    fresh(f"llm.nn.mixers.{kind}", monkeypatch)
    assert [broken for index in range(len(TINY[kind])) for broken in broken_laws(kind, index)] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[1]}: {mutant[0]}")
def test_a_planted_bug_breaks_a_law(mutant, monkeypatch):
    _, kind, index, name, line, wrong = mutant
    assert kind in registry.kinds("llm.nn.mixers")
    plant(monkeypatch, kind, name, line, wrong)
    broken = broken_laws(kind, index)
    assert broken != []
    assert len(broken) < len(mixer_laws.LAWS), "a bug that breaks everything proves nothing"
