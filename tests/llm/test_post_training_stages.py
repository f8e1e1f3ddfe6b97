"""The stages sft, reward and align one after the other, as dvc calls them, and twice: equal bytes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import stages.align
import stages.reward
import stages.sft
from llm.nn.io import load_model, read_config
from llm.runtime import hash_files


def _params(world: Any, kind: str, precision: str) -> str:
    loop = world.loop(steps=2, precision=precision, eval_every=1)
    pairs = {"batch_pairs": 4, "micro_pairs": 2, "max_tokens": 64}
    sampled = {
        "prompts_per_step": 2,
        "group_size": 2,
        "kinds": ["words", "cloze"],
        "max_new_tokens": 4,
        "micro_rows": 4,
        "eval_prompts": 4,
        "kl_beta": 0.01,
        "updates_per_rollout": 2,
    }
    lora = {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": ["w_qkv"]}
    sections = {
        "seed": 3,
        "sft": {**loop, "batch_rows": 2, "micro_rows": 2, "eval_docs": 2, "peft": lora},
        "reward": {**loop, **pairs, "eval_pairs": 4},
        "align": {"kind": kind, "dpo": {**loop, **pairs, "beta": 0.1}, "grpo": {**loop, **sampled}},
    }
    return yaml.safe_dump(sections, sort_keys=False)


def _run(monkeypatch: pytest.MonkeyPatch, module: Any, line: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *line.split()])
    module.main()


@pytest.mark.parametrize(("kind", "precision"), [("dpo", "bf16"), ("grpo", "fp32"), ("grpo", "bf16")])
def test_stages_write_what_dvc_expects_twice_the_same(
    world: Any, work: Path, monkeypatch: pytest.MonkeyPatch, kind: str, precision: str
) -> None:
    pairs, prompts = world.encoded("preference"), world.encoded("prompts")
    lines = {
        stages.sft: f"--base {world.base} --packed {world.packed} --encoded {world.encoded('sft')} --out sft",
        stages.reward: f"--sft sft --encoded {pairs} --out reward",
        stages.align: f"--sft sft --preference {pairs} --prompts {prompts} --out aligned",
    }
    hashes = []
    for attempt in ("first", "second"):
        folder = work / attempt
        folder.mkdir()
        (folder / "params.yaml").write_text(_params(world, kind, precision))
        monkeypatch.chdir(folder)
        for module, line in lines.items():
            name = module.__name__.split(".")[1]
            _run(monkeypatch, module, f"{line} --metrics metrics/{name}.json --plots plots/{name}.csv")
        hashes.append(hash_files(folder))
    assert hashes[0] == hashes[1]
    assert not list((work / "work").glob("*/*/*.pt"))  # nothing to resume is left behind

    assert read_config(Path("sft"))["peft"]["kind"] == "lora"
    assert read_config(Path("aligned"))["align"] == kind
    assert load_model(Path("aligned")).num_params() == load_model(world.base).num_params()
    assert sorted(path.name for path in Path("reward").iterdir()) == [
        "config.json",
        "head.safetensors",
        "model.safetensors",
        "tokenizer",
    ]
    metrics = {
        name: json.loads(Path(f"metrics/{name}.json").read_text()) for name in ("sft", "reward", "align")
    }
    assert set(metrics["sft"]["after"]) == {"all", "chat", "story"}
    assert metrics["reward"]["held_out"]["all"]["n"] == 12
    assert metrics["align"]["method"] == kind
    headers = {name: Path(f"plots/{name}.csv").read_text().splitlines()[0] for name in metrics}
    assert all(header.startswith("step,loss,") for header in headers.values())
    assert ("val_reward" if kind == "grpo" else "val_margin") in headers["align"]
    assert len(Path("plots/sft.csv").read_text().splitlines()) == 3
