"""llm tokenizer sweep: equal parameters, equal bytes, honest tables."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llm.cli import app
from llm.commands import sweep
from llm.data.document import Document, write_documents
from llm.params import load_params, read_yaml
from llm.runtime import write_csv

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny preset, and a small corpus in `clean`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    params = read_yaml(ROOT / "configs" / "tiny.yaml")
    params["model"].update(d_model=32, n_layers=1)
    params["track"]["backends"] = []
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    text = "The little duck number {} swam to the far shore, and the old fox number {} went home to its den. "
    for split, numbers in (("train", range(60)), ("validation", range(60, 66))):
        write_documents(
            tmp_path / "clean" / f"{split}.jsonl",
            [
                Document(
                    id=f"{split}{i}", source="s", kind="tales", licence="PD", work=f"w{i}",
                    text=text.format(i, i * i) * 4,
                )
                for i in numbers
            ],
        )  # fmt: skip
    return tmp_path / "clean"


def test_models_of_every_vocabulary_are_equally_large(corpus: Path) -> None:
    params = load_params(sweep.Params)
    target = sweep.target_params(params)
    for size in (300, 512, 700):
        config = sweep.equal_params(params.model, size, target)
        assert config is not None
        per_channel = 3 * config.d_model * config.n_layers
        assert abs(sweep.n_params(config, size) - target) <= per_channel / 2
    assert sweep.equal_params(params.model, 100_000, target) is None


def test_embedding_share_counts_both_tables_unless_tied(corpus: Path) -> None:
    config = load_params(sweep.Params).model
    tied = dataclasses.replace(config, tied_head=True)
    loose = dataclasses.replace(config, tied_head=False)
    assert sweep.embedding_params(loose, 500) == 2 * sweep.embedding_params(tied, 500) == 2 * 500 * 32
    assert sweep.n_params(loose, 500) - sweep.n_params(tied, 500) == 500 * 32


def test_a_sweep_trains_on_equal_bytes_and_writes_its_tables(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = ["--sizes", "300,600", "--kinds", "bpe", "--corpus", str(corpus), "--out", str(out)]
    result = CliRunner().invoke(app, ["tokenizer", "sweep", *sizes, "--megabytes", "0.05", "--seeds", "2"])
    assert result.exit_code == 0, result.output
    with open(out / "sweep.csv", encoding="utf-8", newline="") as handle:
        small, large = csv.DictReader(handle)
    assert [small["vocab_size"], large["vocab_size"]] == ["300", "600"] or int(large["vocab_size"]) < 600
    for row in (small, large):
        pack = load_params(sweep.Params).pack
        per_step = load_params(sweep.Params).pretrain.batch_rows * pack.seq_len
        # as many whole steps as 50,000 bytes of this tokenizer's tokens fill
        assert int(row["tokens"]) % per_step == 0
        assert 0 < float(row["val_bpb"]) < 8
        assert float(row["spread"]) > 0  # two seeds never agree to the last digit
    assert float(small["bytes_per_token"]) < float(large["bytes_per_token"])
    assert int(small["tokens"]) >= int(large["tokens"])
    table = (out / "sweep.md").read_text()
    best = min(float(small["val_bpb"]), float(large["val_bpb"]))
    assert f"**{best:.3f}**" in table
    assert table in result.output
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not any((tmp_path / "work" / "sweep").iterdir())  # scratch is gone


def test_steps_follow_from_bytes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake(inputs, config, budget, seed):  # type: ignore[no-untyped-def]
        steps = budget.n_steps(inputs.packed.seq_len, inputs.bytes_per_token)
        seen.append((budget, steps, inputs.bytes_per_token(), seed))
        return {"params": 1, "tokens": steps, "val_bpb": {"all": 1.0}}

    monkeypatch.setattr(sweep, "_train", fake)
    sweep.sweep(corpus, ["bpe"], [300, 420], megabytes=0.5, seeds=2, out=tmp_path / "out")
    params = load_params(sweep.Params)
    per_step = params.pretrain.batch_rows * params.pack.seq_len
    for budget, steps, bytes_per_token, _ in seen:
        assert budget.byte_budget == 500_000
        assert steps == math.ceil(500_000 / bytes_per_token / per_step)
    assert [seed for *_, seed in seen] == [params.seed, params.seed + 1] * 2


def test_without_a_budget_no_model_is_trained(corpus: Path, tmp_path: Path) -> None:
    [row] = sweep.sweep(corpus, ["bpe"], [300], megabytes=0.0, seeds=1, out=tmp_path / "out")
    assert row.val_bpb is None
    assert "| — | — |" in sweep.markdown([row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kinds", "bpee"], "'bpee' is not one of"),
        (["--sizes", "1k"], "--sizes: expected whole numbers separated by commas, found '1k'"),
        (["--kinds", "bpe", "--sizes", "100"], r"vocab_size (100) must hold"),
        (["--corpus", "nowhere"], "nowhere"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(corpus: Path, options: list[str], message: str) -> None:
    defaults = {"--corpus": str(corpus), "--out": "out"}
    given = dict(zip(options[::2], options[1::2], strict=True))
    arguments = [part for pair in (defaults | given).items() for part in pair]
    result = CliRunner().invoke(app, ["tokenizer", "sweep", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_cells_fit_the_header(corpus: Path, tmp_path: Path) -> None:
    quality = dict.fromkeys(sweep.QUALITY, 0.5)
    row = sweep.Row(kind="bpe", vocab_size=9, quality=quality, embedding_frac=0.1, d_ff=None)
    write_csv(tmp_path / "x.csv", sweep.HEADER, [sweep.cells(row)])
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as handle:
        [read] = csv.DictReader(handle)
    assert read["kind"] == "bpe"
    assert read["d_ff"] == read["val_bpb"] == ""
