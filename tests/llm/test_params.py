"""params.yaml is read strictly, and every problem is reported at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from llm.nn.model import ModelConfig
from llm.params import Family, ParamsError, from_dict, load_params, to_dict

MODEL = {
    "d_model": 32, "n_layers": 2, "max_len": 16, "tied_head": False,
    "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2}, "ffn": {"kind": "swiglu", "d_ff": 48},
    "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float
    mode: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate ({self.rate}) must not be negative")


@dataclass(frozen=True, kw_only=True)
class Stage:
    seed: int
    inner: Inner


@dataclass(frozen=True, kw_only=True)
class Chosen:
    position: Annotated[Any, Family("llm.nn.position", nested=True)]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_reads_numbers_as_dvc_does(tmp_path):
    path = write(tmp_path, "seed: 3\ninner:\n  rate: 1e-4\n  words:\n    - x\nother: {}\n")
    stage = load_params(Stage, path)
    assert stage == Stage(seed=3, inner=Inner(rate=0.0001, words=("x",)))
    assert isinstance(load_params(Stage, write(tmp_path, "seed: 3\ninner: {rate: 2}\n")).inner.rate, float)


def test_all_problems_at_once_with_path_and_hint(tmp_path):
    path = write(tmp_path, "seed: true\ninner:\n  rte: 1.0\n  mode: aa\n  words: x\n")
    with pytest.raises(ParamsError) as caught:
        load_params(Stage, path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert f"{path}.seed: expected int, found True (bool)" in lines
    assert any("inner.rte: unknown key; did you mean 'rate'?" in line for line in lines)
    assert any("inner.rate: missing key (float)" in line for line in lines)
    assert any("inner.mode: 'aa' is not one of a, b; did you mean 'a'?" in line for line in lines)
    assert any("inner.words: expected a list, found 'x'" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\niner: {rate: 1.0}\n", "missing section 'inner'; did you mean 'iner'?"),
        ("seed: [1\n", "not readable as YAML"),
        ("- 1\n", "expected a mapping of sections, found list"),
        ("seed: 1\ninner: 5\n", "inner: expected a mapping, found 5"),
        ("seed: 1\ninner: {rate: -1}\n", "inner: rate (-1.0) must not be negative"),
    ],
)
def test_one_clear_line_for_a_broken_file(tmp_path, text, message):
    with pytest.raises(
        ParamsError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")
    ):
        load_params(Stage, write(tmp_path, text))


def test_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ParamsError, match="no such file; .*llm preset cpu"):
        load_params(Stage, tmp_path / "params.yaml")


def test_variant_is_chosen_by_file_name_and_round_trips():
    config = from_dict(ModelConfig, MODEL, "p")
    assert (config.mixer.n_heads, config.position.base, config.norm.eps) == (4, 10000.0, 1e-6)
    assert from_dict(ModelConfig, to_dict(config), "p") == config
    assert to_dict(config)["mixer"]["kind"] == "gqa"


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        (
            "mixer",
            {"kind": "gqaa", "n_heads": 4, "n_kv_heads": 2},
            "p.mixer.kind: 'gqaa' is not one of .*gqa",
        ),
        ("mixer", {"n_heads": 4}, "p.mixer.kind: missing key"),
        (
            "mixer",
            {"kind": "gqa", "n_heads": 4, "n_kv_heads": 3},
            r"p.mixer: n_heads \(4\) must be a multiple",
        ),
        ("ffn", {"kind": "swiglu", "d_ff": 48, "n_heads": 2}, "p.ffn.n_heads: unknown key"),
    ],
)
def test_errors_inside_a_variant(section, value, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(ModelConfig, {**MODEL, section: value}, "p")


def test_nested_kinds_keep_their_own_mapping():
    data = {"position": {"kind": "rope", "rope": {"base": 50.0}, "none": {}}}
    assert from_dict(Chosen, data, "p").position.base == 50.0
    data["position"]["kind"] = "none"
    assert to_dict(from_dict(Chosen, data, "p")) == {"position": {"kind": "none"}}
    with pytest.raises(ParamsError, match="p.position.rop: unknown key; did you mean 'rope'"):
        from_dict(Chosen, {"position": {"kind": "none", "none": {}, "rop": {}}}, "p")
    assert (
        from_dict(Chosen, {"position": {"kind": "rope", "none": {}}}, "p").position.base == 10000.0
    )  # defaults
    assert from_dict(Chosen, {"position": {"kind": "rope", "base": 7.0}}, "p").position.base == 7.0  # inline
    with pytest.raises(ParamsError, match=r"p\.position\.bas: unknown key"):
        from_dict(Chosen, {"position": {"kind": "rope", "bas": 7.0}}, "p")
