"""convert: rules are inverses, nothing is dropped silently, and what has no form on the other side is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from llm.cli import app
from llm.convert.base import Deal, Fixed, Fuse, Implied, Rename, Rule, Stack, apply
from tests.llm.convert.test_llama_like import SIZES

RULES: list[Rule] = [
    Rename("a", "x", change=lambda w: w * 2, back=lambda w: w / 2),
    Fuse("b", [("y", 2), ("z", 1)]),
    Stack("c", [["e0", "f0"], ["e1", "f1"]]),
    Fixed("d", torch.ones(3)),
    Implied("w", lambda: torch.arange(3.0)),
    Deal(
        {"p": (2, 1), "q": (2, 2), "r": (1, 1)},
        {"g": ["p", "r"], "h": ["q"]},
        {"dealt": ["p", "q"], "rest": ["r"]},
    ),
    Fuse("i", [("s", 1), ("t", 2)], torch.t, torch.t),
]


def ours() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(2), "b": torch.randn(3, 2), "c": torch.randn(2, 4, 3), "d": torch.ones(3),
        "g": torch.randn(3, 2), "h": torch.randn(4, 2), "i": torch.randn(2, 3),
    }  # fmt: skip


def test_both_directions_are_inverses() -> None:
    made = ours()
    theirs = apply(RULES, made, to="theirs")
    assert sorted(theirs) == ["dealt", "e0", "e1", "f0", "f1", "rest", "s", "t", "w", "x", "y", "z"]
    assert theirs["y"].shape == (2, 2)
    again = apply(RULES, theirs, to="ours")
    assert again.keys() == made.keys()
    assert all(torch.equal(again[name], made[name]) for name in made)


def test_rows_are_dealt_head_by_head() -> None:
    made = ours() | {"g": torch.tensor([[0.0], [10], [99]]), "h": torch.tensor([[1.0], [2], [11], [12]])}
    theirs = apply(RULES, made, to="theirs")
    assert theirs["dealt"].flatten().tolist() == [0, 1, 2, 10, 11, 12]
    assert theirs["rest"].flatten().tolist() == [99]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("y"), "missing y"),
        (lambda w: w.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda w: w.update(y=torch.zeros(5, 2)), r"y is \[5, 2\], expected 2 rows"),
        (lambda w: w.update(dealt=torch.zeros(5, 2)), r"dealt is \[5, 2\], expected 6 rows"),
        (lambda w: w.update(w=torch.ones(3)), "w is not what its config.json makes it"),
    ],
)
def test_tensors_that_do_not_match_are_an_error(change: Any, message: str) -> None:
    theirs = apply(RULES, ours(), to="theirs")
    change(theirs)
    with pytest.raises(ValueError, match=message):
        apply(RULES, theirs, to="ours")


def test_a_value_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="d was trained; the other format has no place for it"):
        apply(RULES, ours() | {"d": torch.ones(3) * 2}, to="theirs")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("llama") / "theirs"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def edited(llama: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(llama, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "no_such"}, "'no_such' is not one of"),
        ({"model_type": None}, "neither of this project nor of transformers"),
        ({"attention_bias": True}, "attention_bias is True; only False has a form"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rope_scaling is {'type': 'linear'}"),
        ({"rms_norm_eps": None}, "config.json: no 'rms_norm_eps'; llama needs it"),
        ({"vocab_size": 999}, "the model has 999; not its tokenizer"),
        ({"intermediate_size": 48}, "expected 48 rows"),
        ({"num_hidden_layers": 2}, "unknown model.layers.2"),
        ({"num_hidden_layers": 4}, "missing model.layers.3"),
    ],
)
def test_a_foreign_config_is_taken_whole_or_not_at_all(
    changes: dict[str, Any], message: str, llama: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    source = edited(llama, tmp_path / "theirs", **changes)
    result = run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_files_that_are_missing_or_damaged(llama: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    assert "name the tokenizer folder" in run(llama, tmp_path / "ours").output
    assert "no such file; give a model folder" in run(tmp_path / "nothing", tmp_path / "ours").output
    assert "exists; name a new folder" in run(llama, tmp_path, "--tokenizer", tokenizer_folder).output
    source = edited(llama, tmp_path / "theirs")
    weights = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[:1000])
    assert "damaged or truncated" in run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder).output
    (source / "model.safetensors").unlink()
    assert "no *.safetensors file" in run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder).output


def test_weights_in_several_files_and_in_bf16(llama: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    source = edited(llama, tmp_path / "theirs")
    weights = {name: w.bfloat16() for name, w in load_file(source / "model.safetensors").items()}
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    for number, part in enumerate((names[:5], names[5:])):
        save_file({name: weights[name] for name in part}, source / f"model-{number}.safetensors")
    result = run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert result.exit_code == 0, result.output
    found = load_file(tmp_path / "ours" / "model.safetensors")
    torch.testing.assert_close(found["embedding.weight"], weights["model.embed_tokens.weight"].float())


def test_another_layout_of_pairs_is_not_written_as_llama(
    llama: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    run(llama, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    file = tmp_path / "ours" / "config.json"
    config = json.loads(file.read_text())
    config["model"]["position"]["layout"] = "interleaved"
    file.write_text(json.dumps(config))
    result = run(tmp_path / "ours", tmp_path / "again", "--to", "llama")
    assert result.exit_code == 2
    assert "layout is 'interleaved'; only 'half' has a form" in result.output


def test_the_architecture_that_fits_is_found(llama: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    result = run(tmp_path / "ours", tmp_path / "again")
    assert "LlamaForCausalLM" in result.output
    wrong = run(tmp_path / "ours", tmp_path / "more", "--to", "qwen3")
    assert wrong.exit_code == 2
    assert "qk_norm is False; only True has a form" in wrong.output
