"""explore: influences by gradients, the picture, the errors."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llm import registry
from llm.cli import app
from llm.commands import explore
from llm.nn.io import load_model

KINDS = [kind for kind in registry.kinds("llm.nn.mixers") if kind != "hybrid"]


def test_influence_of_a_known_mixer() -> None:
    weights_TT = torch.tensor([[1.0, 0, 0], [2, 3, 0], [0, 0, 4]])
    probes = torch.nn.functional.normalize(torch.randn(2, 5), dim=-1)
    found = explore.influence(lambda x: weights_TT @ x, torch.randn(1, 3, 5), probes)
    torch.testing.assert_close(found, weights_TT)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_causal_reads_itself_and_has_a_state(kind: str) -> None:
    found = explore.explore(kind, text="", layer=-1)
    assert found.reach_TT.triu(1).eq(0).all()
    assert found.reach_TT.diagonal().gt(0).all()
    torch.testing.assert_close(found.weights_TT.sum(-1), torch.ones(len(found.labels)))
    sizes = list(found.state_bytes.values())
    assert sizes == sorted(sizes)
    assert sizes[0] > 0


def test_a_learned_layer_reads_the_sentence(model_folder: Path, tmp_path: Path) -> None:
    target, words = explore.attention(
        str(model_folder), text="a duck on a lake", layer=0, out=tmp_path / "p" / "a.png"
    )
    assert target.read_bytes().startswith(b"\x89PNG")
    found = explore.explore(str(model_folder), text="a duck on a lake", layer=0)
    assert "".join(found.labels) == "·a␣duck␣on␣a␣lake"
    assert found.name == "gqa"
    assert words.startswith("gqa: of 64 tokens a query reaches 32.5")
    mixer = load_model(model_folder).layers[0].mixer
    assert found.state_bytes[64] == 2 * 64 * mixer.n_kv_heads * mixer.d_head * 4


def test_the_same_picture_twice(tmp_path: Path) -> None:
    pictures = [explore.attention("gqa", out=tmp_path / f"{i}.png")[0].read_bytes() for i in range(2)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_thing"], "no_such_thing"),
        (["hybrid"], "hybrid has a mixer for each layer"),
        (["gqa", "--layer", "2"], "--layer 2; the model has 2 layers"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explore", "attention", *arguments, "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_text_without_tokens(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="the text has 0 tokens; give at least 2"):
        explore.explore(str(model_folder), text="", layer=0)
