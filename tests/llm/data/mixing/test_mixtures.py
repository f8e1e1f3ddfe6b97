"""Each mixture by hand, and the choice of documents."""

import math
from typing import Any

import numpy as np
import pytest

from llm import registry
from llm.data.mixing.base import read_order, realised
from llm.params import ParamsError, from_dict

TOKENS = {"big": 900, "mid": 90, "small": 10}


def wanted(kind: str, tokens: dict[str, int] = TOKENS, **options: Any) -> dict[str, float]:
    config = from_dict(registry.module("llm.data.mixing", kind).Config, options, kind)
    shares: dict[str, float] = registry.build(config).wanted(tokens)
    return shares


def test_temperature_one_is_proportional_and_infinity_uniform() -> None:
    assert wanted("temperature", tau=1.0) == pytest.approx(TOKENS)
    uniform = wanted("temperature", tau=math.inf, max_epochs=1e6)
    assert uniform == pytest.approx(dict.fromkeys(TOKENS, 1000 / 3))
    flattened = wanted("temperature", tau=2.0, max_epochs=1e6)
    roots = {kind: n**0.5 for kind, n in TOKENS.items()}
    assert flattened == pytest.approx(
        {kind: 1000 * root / sum(roots.values()) for kind, root in roots.items()}
    )
    with pytest.raises(ParamsError, match=r"tau \(0.5\) must be at least 1"):
        wanted("temperature", tau=0.5)


def test_a_full_kind_leaves_its_share_to_the_others() -> None:
    # Uniform wants 333 of each; small gives 4 · 10, mid 4 · 90, and big the remaining 600.
    assert wanted("temperature", tau=math.inf) == pytest.approx({"big": 600, "mid": 360, "small": 40})
    # The kinds that are not full keep their proportion: 990 over 900 : 90.
    weights = {"big": 10.0, "mid": 1.0, "small": 100.0}
    assert wanted("weights", weights=weights, max_epochs=1.0) == pytest.approx(
        {"big": 900, "mid": 90, "small": 10}
    )
    assert wanted("weights", weights=weights, max_epochs=1.0, total_frac=0.45) == pytest.approx(
        {"big": 400, "mid": 40, "small": 10}
    )


def test_unimax_by_hand() -> None:
    # Smallest first: min(1000 / 3, 40) = 40; min(960 / 2, 360) = 360; min(600 / 1, 3600) = 600.
    assert wanted("unimax") == pytest.approx({"small": 40, "mid": 360, "big": 600})
    # One epoch, twice the corpus asked for: there is only the corpus.
    assert wanted("unimax", total_frac=2.0, max_epochs=1.0) == pytest.approx(TOKENS)
    # No cap reached: the same of each.
    assert wanted("unimax", {"x": 50, "y": 100}, total_frac=0.4) == pytest.approx({"x": 30, "y": 30})
    # The paper's algorithm on four languages with a budget of 100 and one epoch: 4, then 32, 32, 32.
    tokens = {"a": 4, "b": 40, "c": 60, "d": 400}
    assert wanted("unimax", tokens, total_frac=100 / 504, max_epochs=1.0) == pytest.approx(
        {"a": 4, "b": 32, "c": 32, "d": 32}
    )


def test_unimax_is_the_uniform_mixture_below_the_caps() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        tokens = {f"k{i}": int(n) for i, n in enumerate(generator.integers(1, 1000, size=6))}
        options = {
            "total_frac": float(generator.uniform(0.1, 3)),
            "max_epochs": float(generator.uniform(0.5, 5)),
        }
        uniform = wanted("weights", tokens, weights=dict.fromkeys(tokens, 1.0), **options)
        assert wanted("unimax", tokens, **options) == pytest.approx(uniform)


def test_capped_by_hand() -> None:
    # min(n, K) is 90, 90, 10: 1000 over 9 : 9 : 1, of which mid may give 360 and small 40.
    assert wanted("capped", cap_tokens=90, max_epochs=1e6) == pytest.approx(
        {"big": 1000 * 9 / 19, "mid": 1000 * 9 / 19, "small": 1000 / 19}
    )
    assert wanted("capped", cap_tokens=90) == pytest.approx({"big": 600, "mid": 360, "small": 40})
    assert wanted("capped", cap_tokens=10_000) == pytest.approx(TOKENS)
    with pytest.raises(ParamsError, match=r"cap_tokens \(0\) must be positive"):
        wanted("capped", cap_tokens=0)


def test_weights_name_every_kind() -> None:
    assert wanted("weights", weights={"big": 1.0, "mid": 0.0, "small": 0.0}) == pytest.approx(
        {"big": 1000, "mid": 0, "small": 0}
    )
    for given in ({"big": 1.0, "mid": 1.0}, {"big": 1.0, "mid": 1.0, "small": 1.0, "tiny": 1.0}):
        with pytest.raises(ValueError, match="the corpus has big, mid, small; name each kind once"):
            wanted("weights", weights=given)
    for bad in ({"big": -1.0, "mid": 2.0}, {"big": 0.0}, {"big": math.inf}):
        with pytest.raises(ParamsError, match="must not be negative, and one must be positive"):
            wanted("weights", weights=bad)


def test_whole_passes_in_the_order_of_the_corpus_then_a_part_of_one() -> None:
    kinds, lengths = ["a", "b", "a", "b", "a"], np.array([10, 5, 20, 5, 30])
    order = read_order(kinds, lengths, {"a": 60, "b": 20}, seed=0).tolist()
    assert order == [0, 1, 2, 3, 4, 1, 3]
    half = read_order(kinds, lengths, {"a": 90, "b": 0}, seed=0).tolist()
    assert half[:3] == [0, 2, 4]
    assert sum(lengths[half[3:]]) == 30
    assert half[3:] in ([4], [0, 2])


def test_a_document_too_long_for_the_rest_is_passed_over() -> None:
    lengths = np.array([100, 1, 1, 1])
    for seed in range(8):
        assert read_order(["a"] * 4, lengths, {"a": 2.0}, seed).tolist() in ([1, 2], [1, 3], [2, 3])


def test_report() -> None:
    kinds, lengths = ["a", "b", "a"], np.array([10, 30, 20])
    order = np.array([0, 1, 2, 0])
    assert realised(kinds, lengths, order, {"a": 42.4, "b": 30.0, "c": 0.0}) == {
        "a": {"n_tokens": 30, "wanted_tokens": 42, "read_tokens": 40, "epochs": 40 / 30, "read_frac": 4 / 7},
        "b": {"n_tokens": 30, "wanted_tokens": 30, "read_tokens": 30, "epochs": 1.0, "read_frac": 3 / 7},
        "c": {"n_tokens": 0, "wanted_tokens": 0, "read_tokens": 0, "epochs": 0.0, "read_frac": 0.0},
    }
