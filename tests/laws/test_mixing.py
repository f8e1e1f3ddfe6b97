"""Laws of the family llm.data.mixing: every kind obeys them, whatever the corpus."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data.mixing.base import Mixture, read_order, realised
from llm.params import ParamsError, from_dict

FAMILY = "llm.data.mixing"
KINDS = registry.kinds(FAMILY)
BUDGETED = [kind for kind in KINDS if kind != "none"]
NEEDS: dict[str, dict[str, Any]] = {
    "capped": {"cap_tokens": 40},
    "none": {},
    "temperature": {"tau": 3.0},
    "unimax": {},
    "weights": {"weights": {"a": 0.2, "b": 3.0, "c": 1.0}},
}

corpora = st.fixed_dictionaries(
    {kind: st.lists(st.integers(1, 50), min_size=1, max_size=30) for kind in ("a", "b", "c")}
)


def mixture(kind: str, **options: Any) -> Mixture:
    built: Mixture = registry.build(
        from_dict(registry.module(FAMILY, kind).Config, {**NEEDS[kind], **options}, kind)
    )
    return built


def sizes(corpus: dict[str, list[int]]) -> dict[str, int]:
    return {kind: sum(lengths) for kind, lengths in corpus.items()}


def documents(corpus: dict[str, list[int]]) -> tuple[list[str], np.ndarray]:
    """Kinds and lengths of the documents, in an order that mixes the kinds."""
    listed = sorted((nth, kind, length) for kind in corpus for nth, length in enumerate(corpus[kind]))
    return [kind for _, kind, _ in listed], np.array([length for _, _, length in listed])


def test_every_kind_is_covered() -> None:
    assert sorted(NEEDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(corpus=corpora, total_frac=st.floats(0.05, 5.0), max_epochs=st.floats(0.5, 6.0))
def test_what_is_wanted_keeps_to_the_budget_and_the_caps(
    kind: str, corpus: dict[str, list[int]], total_frac: float, max_epochs: float
) -> None:
    options = {} if kind == "none" else {"total_frac": total_frac, "max_epochs": max_epochs}
    tokens = sizes(corpus)
    wanted = mixture(kind, **options).wanted(tokens)
    assert set(wanted) == set(tokens)
    if kind == "none":
        assert wanted == tokens
        return
    caps = {name: max_epochs * n for name, n in tokens.items()}
    assert all(0 <= wanted[name] <= caps[name] * (1 + 1e-9) for name in wanted)
    budget = min(
        total_frac * sum(tokens.values()), sum(caps.values())
    )  # nothing is left while a kind has room
    assert math.isclose(sum(wanted.values()), budget, rel_tol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(corpus=corpora, seed=st.integers(0, 9))
def test_what_is_read_misses_what_is_wanted_by_less_than_a_document(
    kind: str, corpus: dict[str, list[int]], seed: int
) -> None:
    kinds_D, lengths_D = documents(corpus)
    wanted = mixture(kind).wanted(sizes(corpus))
    order = read_order(kinds_D, lengths_D, wanted, seed)
    report = realised(kinds_D, lengths_D, order, wanted)
    times_D = np.bincount(order, minlength=len(kinds_D))
    for name, row in report.items():
        epochs = wanted[name] / sum(corpus[name])
        assert round(wanted[name]) - max(corpus[name]) < row["read_tokens"] <= round(wanted[name])
        times = times_D[np.array(kinds_D) == name]
        assert set(times.tolist()) <= {
            math.floor(epochs + 1e-9),
            math.floor(epochs - 1e-9) + 1,
            round(epochs),
        }
        assert row["epochs"] <= 4.0  # the default cap, also after the choice of documents
    assert order.tolist() == read_order(kinds_D, lengths_D, wanted, seed).tolist()


@pytest.mark.parametrize("kind", BUDGETED)
def test_another_seed_reads_other_documents_and_as_many_tokens(kind: str) -> None:
    corpus = {"a": [10] * 200, "b": [10] * 50, "c": [10] * 20}
    kinds_D, lengths_D = documents(corpus)
    wanted = mixture(kind, total_frac=0.7).wanted(sizes(corpus))
    first, second = (read_order(kinds_D, lengths_D, wanted, seed) for seed in (1, 2))
    assert sorted(first.tolist()) != sorted(second.tolist())
    assert lengths_D[first].sum() == lengths_D[second].sum()


@pytest.mark.parametrize("kind", BUDGETED)
def test_bad_budgets_are_refused(kind: str) -> None:
    for name in ("total_frac", "max_epochs"):
        with pytest.raises(ParamsError, match=rf"{name} \(0.0\) must be positive"):
            mixture(kind, **{name: 0.0})
