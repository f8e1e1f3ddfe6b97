"""The pretrain stage: params, inputs that do not fit, equal bytes, resuming through the stage."""

import dataclasses
import json
import os
import signal
import sys

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from llm import runtime
from llm.data.encoded import EncodedSet, write_encoded
from llm.data.packed import RowSource
from llm.nn import io
from llm.optim import adamw, muon
from llm.optim._groups import OptimizerParams
from llm.optim.schedules import cosine
from llm.params import ParamsError
from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.train.pretrain import PretrainParams
from stages import pretrain as stage

SEQ_LEN = 24
PARAMS = {
    "seed": 3,
    "model": {
        "d_model": 16,
        "n_layers": 2,
        "max_len": 64,
        "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1},
        "ffn": {"kind": "swiglu", "d_ff": 24},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2"},
    },
    "pretrain": {
        "batch_rows": 4,
        "micro_rows": 2,
        "steps": 6,
        "token_budget": None,
        "log_every": 2,
        "eval_every": 3,
        "eval_docs": 2,
        "save_every": 2,
        "grad_clip": 1.0,
        "precision": "bf16",
        "optimizer": {"matrices": {"kind": "muon", "lr": 0.02}, "rest": {"kind": "adamw", "lr": 0.01}},
        "schedule": {"kind": "wsd", "warmup_frac": 0.2},
    },
}
TEXTS = [f"The cat sat on mat number {i} and the dog said hello to cat {i * 7}." for i in range(40)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folders packed, encoded and tokenizer of a toy corpus."""
    root = tmp_path_factory.mktemp("pretrain")
    config = bpe.Config(vocab_size=280, min_frequency=1, special_tokens=())
    tokenizer = train_tokenizer(bpe.build(config), TEXTS, root / "tokenizer", "toy")
    docs = [[tokenizer.eot_id, *tokenizer.encode(text), tokenizer.eot_id] for text in TEXTS]
    documents = [
        (
            ids,
            [0, *[1] * (len(ids) - 1)],
            {"id": str(i), "kind": ("chat", "tales")[i % 2], "n_bytes": len(TEXTS[i])},
        )
        for i, ids in enumerate(docs)
    ]
    facts = {"tokenizer_hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size}
    for split, part in (("validation", documents[:6]), ("train", documents[6:])):
        write_encoded(root / "encoded" / split, part, set_name="pretrain", split=split, **facts)
    rows = np.concatenate([np.array(ids) for ids in docs[6:]])
    rows = rows[: len(rows) // (SEQ_LEN + 1) * (SEQ_LEN + 1)].reshape(-1, SEQ_LEN + 1)
    (root / "packed").mkdir()
    rows.astype("<u2").tofile(root / "packed" / "rows.bin")
    np.ones(rows.shape, "<u2").tofile(root / "packed" / "segments.bin")
    np.ones(rows.shape, "u1").tofile(root / "packed" / "mask.bin")
    meta = {
        "n_rows": len(rows),
        "seq_len": SEQ_LEN,
        "dtype": "u16",
        "set": "pretrain",
        "split": "train",
        **facts,
    }
    runtime.write_json(root / "packed" / "meta.json", meta)
    return root


@pytest.fixture
def run(inputs, tmp_path, monkeypatch):
    """Run the stage in a folder of its own; returns that folder."""

    def call(name, params=PARAMS, packed=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("LLM_WORK_DIR", str(folder / "work"))
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        flags = {
            "--packed": packed or inputs / "packed",
            "--encoded": inputs / "encoded",
            "--tokenizer": inputs / "tokenizer",
            "--out": "models/base",
            "--metrics": "metrics/pretrain.json",
            "--plots": "plots/pretrain.csv",
        }
        monkeypatch.setattr(
            sys, "argv", ["pretrain", *(str(part) for pair in flags.items() for part in pair)]
        )
        stage.main()
        return folder

    return call


def outs(folder):
    files = [path for name in ("models", "metrics", "plots") for path in sorted((folder / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def changed(**fields):
    return {**PARAMS, "pretrain": {**PARAMS["pretrain"], **fields}}


def test_stage_writes_a_model_its_metrics_and_its_curve(run):
    folder = run("a")
    metrics = json.loads((folder / "metrics" / "pretrain.json").read_text())
    assert metrics["steps"] == 6
    assert metrics["tokens"] == 6 * 4 * SEQ_LEN
    assert set(metrics["val_bpb"]) == {"all", "chat", "tales"}
    assert 0 < metrics["val_bpb"]["all"] < 8
    assert metrics["best_step"] in (3, 6)
    header, *rows = (folder / "plots" / "pretrain.csv").read_text().splitlines()
    assert header == "step,loss,val_bpb,grad_norm,lr"
    assert [row.split(",")[0] for row in rows] == ["2", "3", "4", "6"]
    assert [bool(row.split(",")[2]) for row in rows] == [False, True, False, True]
    model = io.load_model(folder / "models" / "base")
    assert model.num_params() == metrics["params"]
    best = load_file(folder / "models" / "base" / "best.safetensors")
    final = load_file(folder / "models" / "base" / "model.safetensors")
    assert best.keys() == final.keys()
    assert all(best[name].equal(final[name]) for name in best) is (metrics["best_step"] == 6)
    assert not list((folder / "work" / "pretrain").iterdir()), "the work folder is removed on success"


def test_equal_inputs_give_equal_bytes_and_stopping_changes_nothing(run, monkeypatch):
    whole = outs(run("whole"))
    original = RowSource.micro_batches
    step_to_stop = [4]

    def stopping(self, step):
        if step_to_stop and step == step_to_stop[0]:
            step_to_stop.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    monkeypatch.setattr(RowSource, "micro_batches", stopping)
    with pytest.raises(runtime.Interrupted):
        run("cut")
    resumed = run("cut")
    assert outs(resumed) == whole
    assert len(whole) == 7  # config, two weights, tokenizer (2), metrics, curve


def test_token_budget_decides_the_steps(run):
    folder = run("budget", changed(steps=None, token_budget=4 * SEQ_LEN * 2 + 1))
    assert json.loads((folder / "metrics" / "pretrain.json").read_text())["steps"] == 3


def test_byte_budget_counts_bytes_of_text(run, inputs):
    train = EncodedSet.open(inputs / "encoded" / "train")
    n_bytes = sum(document["n_bytes"] for document in train.docs)
    assert n_bytes == sum(len(text.encode()) for text in TEXTS[6:])
    per_step = 4 * SEQ_LEN * n_bytes / int(train.loss_mask.sum())
    folder = run("bytes", changed(steps=None, byte_budget=int(2.5 * per_step)))
    assert json.loads((folder / "metrics" / "pretrain.json").read_text())["steps"] == 3


def test_tokenizer_that_does_not_match_is_refused(run, inputs, tmp_path):
    other = tmp_path / "foreign"
    other.mkdir()
    for file in (inputs / "packed").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps({**meta, "tokenizer_hash": "f" * 64}))
    with pytest.raises(ValueError, match="tokenizer"):
        run("a", packed=other)
    assert not (tmp_path / "a" / "models").exists()


def test_rows_longer_than_the_model_are_refused(run):
    short = {**PARAMS, "model": {**PARAMS["model"], "max_len": 16}}
    with pytest.raises(ValueError, match=r"model.max_len \(16\) is below pack.seq_len \(24\)"):
        run("a", short)


def test_nan_leaves_no_outs_but_one_line(run, tmp_path):
    wild = changed(
        optimizer={"matrices": {"kind": "adamw", "lr": 1e30}, "rest": {"kind": "adamw", "lr": 1e30}}
    )
    with pytest.raises(
        ValueError, match=r"pretrain: .* at step \d; the first non-finite tensor is .*; lower the lr"
    ):
        run("a", wild)
    assert not (tmp_path / "a" / "models").exists()
    assert not (tmp_path / "a" / "metrics").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 5, "token_budget": 5}, "exactly one of steps"),
        ({"steps": None}, "exactly one of steps"),
        ({"steps": None, "token_budget": 5, "byte_budget": 9}, "token_budget 5, byte_budget 9"),
        ({"steps": 0}, r"steps \(0\) must be positive"),
        ({"micro_rows": 0}, r"micro_rows \(0\)"),
        ({"log_every": 0}, r"log_every \(0\)"),
        ({"grad_clip": -1.0}, r"grad_clip \(-1.0\)"),
        ({"precision": "fp8"}, "'fp8' is not one of fp32, bf16"),
        (
            {"optimizer": {"matrices": {"kind": "muom", "lr": 1.0}, "rest": {"kind": "adamw", "lr": 1.0}}},
            "muon",
        ),
    ],
)
def test_bad_params_are_named(run, fields, message):
    with pytest.raises(ParamsError, match=message):
        run("a", changed(**fields))


def test_params_reach_the_loop_unchanged():
    fields = {
        "log_every": 7,
        "eval_every": 11,
        "save_every": 13,
        "grad_clip": 0.5,
        "precision": "fp32",
        "optimizer": OptimizerParams(matrices=muon.Config(lr=0.02), rest=adamw.Config(lr=0.01)),
        "schedule": cosine.Config(warmup_frac=0.1),
        "telemetry_every": 17,
    }
    params = PretrainParams(batch_rows=2, micro_rows=1, steps=None, token_budget=100, eval_docs=1, **fields)
    loop = params.loop(seq_len=20, bytes_per_token=lambda: 1.0)
    assert dataclasses.asdict(loop) == dataclasses.asdict(type(loop)(steps=3, **fields))
