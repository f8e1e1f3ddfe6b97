"""Fine-tuning end to end on six conversations: it learns the answers, and when to stop."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm import registry
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.io import load_model, read_config
from llm.nn.objective import token_logps
from llm.params import from_dict
from llm.peft.base import adapted
from llm.runtime import output_dir
from llm.sft.sft import Conversations, SftParams, Tuned, sft, write_tuned

LORA = {"kind": "lora", "rank": 4, "alpha": 8.0, "targets": ["w_qkv", "w_o"]}


def _params(world: Any, **changes: Any) -> SftParams:
    fields = {"batch_rows": 4, "micro_rows": 4, "eval_docs": 3, "peft": {"kind": "none"}, **changes}
    return from_dict(SftParams, world.loop(**fields), "sft")


def _tune(world: Any, params: SftParams) -> Tuned:
    return sft(world.base, world.packed, world.encoded("sft"), params, seed=1)


def _write(tuned: Tuned, params: SftParams, world: Any, out: Path) -> None:
    with output_dir(out) as folder:
        write_tuned(folder, tuned, params, world.base / "tokenizer")


def test_full_fine_tuning_answers_and_stops(world: Any, work: Path) -> None:
    params = _params(world, steps=60)
    tuned = _tune(world, params)
    assert tuned.metrics["after"]["all"]["loss"] < 0.05 < tuned.metrics["before"]["all"]["loss"]
    assert tuned.metrics["trained_params"] == tuned.metrics["params"]
    assert not tuned.adapter

    _write(tuned, params, world, work / "sft")
    model, tokenizer = load_model(work / "sft"), world.tokenizer()
    held_out = Conversations.open(world.encoded("sft") / "validation", tokenizer, 64)
    for (row, *_), answer in zip(held_out.rows, ("blue.", "green.", "white."), strict=False):
        prompt = row.ids[: int(row.mask.argmax())].tolist()
        out = generate(
            model,
            [prompt],
            max_new_tokens=20,
            sampling=SamplingParams(temperature=0),
            stop_ids={tokenizer.im_end_id},
            generator=torch.Generator(),
        )
        assert out.finished == [True]
        assert tokenizer.decode(out.tokens[0], skip_special=True) == answer


def test_lora_saves_a_merged_model_and_the_adapter(world: Any, work: Path) -> None:
    params = _params(world, steps=5, peft=LORA)
    tuned = _tune(world, params)
    assert tuned.metrics["adapted_layers"] == 4
    assert tuned.metrics["trained_params"] < 0.1 * tuned.metrics["params"]
    assert tuned.metrics["after"]["all"]["loss"] < tuned.metrics["before"]["all"]["loss"]
    assert not list(adapted(tuned.model))

    _write(tuned, params, world, work / "sft")
    assert read_config(work / "sft")["peft"]["rank"] == 4
    merged, base = load_model(work / "sft"), load_model(world.base)
    factors = load_file(work / "sft" / "adapter.safetensors")
    registry.build(params.peft).attach(base)
    missing = base.load_state_dict(factors, strict=False).unexpected_keys
    assert not missing
    tokens = torch.arange(40)[None]
    assert torch.allclose(merged(tokens), base.eval()(tokens), atol=1e-4)
    assert not torch.allclose(merged(tokens), load_model(world.base)(tokens), atol=1e-3)


def test_only_answers_are_measured_and_in_bits_per_byte(world: Any) -> None:
    model, tokenizer = load_model(world.base), world.tokenizer()
    held_out = Conversations.open(world.encoded("sft") / "validation", tokenizer, 64)
    measured = held_out.measure(model)
    nats, tokens = 0.0, 0
    for (row,) in held_out.rows:
        logps = token_logps(model, torch.from_numpy(row.ids)[None])[0].detach()
        nats -= float(logps[torch.from_numpy(row.mask[1:])].sum())
        tokens += int(row.mask.sum())
    answers = ["blue.Yes, blue.", "green.", "white.", "black.", "yellow.", "red."]
    n_bytes = sum(len(answer) for answer in answers)
    assert measured["all"]["loss"] == pytest.approx(nats / tokens, rel=1e-4)
    assert measured["all"]["bpb"] == pytest.approx(nats / n_bytes / math.log(2), rel=1e-4)
    assert set(measured) == {"all", "chat", "story"}


def test_another_tokenizer_is_refused(world: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(world.base, tmp_path / "base")
    meta = tmp_path / "base/tokenizer/meta.json"
    meta.write_text(meta.read_text() + " ")  # other bytes, other hash
    with pytest.raises(ValueError, match="made with tokenizer"):
        sft(tmp_path / "base", world.packed, world.encoded("sft"), _params(world), seed=1)
