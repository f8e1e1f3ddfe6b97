"""align: an instruction-tuned model -> an aligned one, by the method that `align.kind` names.

The method owns data and loss (llm/align/methods); here are the order of events and the report: numbers of
held-out examples before and after, with the standard error of the gain.
"""

from pathlib import Path
from typing import Any

import torch

from llm import registry, runtime
from llm.align.methods.base import AlignData, Method, compare
from llm.nn.io import load_model
from llm.nn.model import Decoder
from llm.params import to_dict
from llm.tokenizer.base import load_tokenizer
from llm.train import checkpoint
from llm.train.loop import TrainResult, train

STAGE = "align"


def align(
    sft: Path, preference: Path, prompts: Path, params: Any, seed: int
) -> tuple[Decoder, TrainResult, dict[str, Any]]:
    """Align the model in folder `sft`; returns it with its history and its metrics.

    preference, prompts: folders of the encoded sets; a method reads one of them.
    """
    device = torch.device(runtime.device_name())
    model = load_model(sft, device=str(device))
    fingerprint = checkpoint.fingerprint([seed, to_dict(params)], sft, preference, prompts)
    data = AlignData(
        preference=preference,
        prompts=prompts,
        tokenizer=load_tokenizer(sft / "tokenizer"),
        device=device,
        seed=runtime.derive_seed(seed, STAGE, "data"),
        work=checkpoint.work_folder(STAGE, fingerprint),
    )
    method: Method = registry.build(params, model, data)
    before = method.before()
    result = train(
        model,
        method.objective,
        method,
        params,
        stage=STAGE,
        seed=seed,
        fingerprint=fingerprint,
        evaluate=method.watch,
        unit=method.unit,
    )
    held_out = compare(before, method.examples())
    last = {name: value for name, value in result.history[-1].items() if not name.startswith("val_")}
    return model, result, {"method": registry.kind_of(params), "held_out": held_out, "last_step": last}


def curve(result: TrainResult) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of plots/align.csv: every column the method logged; `val_` means held out."""
    names = list(dict.fromkeys(name for row in result.history for name in row))
    return names, [[row.get(name) for name in names] for row in result.history]
