"""sft: a base model -> a model that answers: packed conversations, loss on the answers, full or by adapter.

Equations   (1) in docs/sft/sft.md
Source      Ouyang et al. 2022, arXiv 2203.02155, section 3.5 (supervised fine-tuning)
Shapes      B rows, T tokens
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from llm import registry, runtime
from llm.data.encoded import EncodedSet, check_tokenizer
from llm.data.packed import PackedRows, RowSource
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.io import load_model, save_model
from llm.nn.model import Decoder
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import Family, to_dict
from llm.peft.base import Adapter, adapter_tensors
from llm.sft.rows import Row, pieces, read_row, row_logps, spread
from llm.tokenizer.base import Tokenizer, load_tokenizer
from llm.train import checkpoint
from llm.train.loop import LoopParams, TrainResult, train

STAGE = "sft"
SAMPLES = 3
SAMPLE_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class SftParams(LoopParams):
    """batch_rows: packed rows of a step. micro_rows: rows of one forward pass. eval_docs: held-out
    conversations of the learning curve; before and after training all of them are measured."""

    batch_rows: int
    micro_rows: int
    eval_docs: int
    peft: Annotated[Any, Family("llm.peft")]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_rows", "micro_rows", "eval_docs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


@dataclass(frozen=True)
class Tuned:
    """model: adapters merged, a plain decoder. adapter: their tensors, empty after full fine-tuning."""

    model: Decoder
    adapter: dict[str, Tensor]
    result: TrainResult
    metrics: dict[str, Any]


class Source:
    """The packed rows of each step; tells the adapter first which step it is."""

    def __init__(self, rows: RowSource, adapter: Adapter) -> None:
        self.rows, self.adapter = rows, adapter

    def micro_batches(self, step: int) -> list[TokenBatch]:
        """Pure function of (seed, step)."""
        self.adapter.on_step(step)
        return self.rows.micro_batches(step)


def sft(base: Path, packed: Path, encoded: Path, params: SftParams, seed: int) -> Tuned:
    """Fine-tune the model in `base` on packed rows; measure the answers of held-out conversations."""
    tokenizer = load_tokenizer(base / "tokenizer")
    rows = PackedRows.open(packed)
    check_tokenizer(rows.meta, tokenizer.hash, packed, base / "tokenizer")
    held_out = Conversations.open(encoded / "validation", tokenizer, rows.seq_len)
    model = load_model(base, device=runtime.device_name())
    before = held_out.measure(model)

    torch.manual_seed(runtime.derive_seed(seed, STAGE, "adapter"))
    adapter: Adapter = registry.build(params.peft)
    adapted = adapter.attach(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    source = RowSource(
        rows,
        seed=runtime.derive_seed(seed, STAGE, "rows"),
        rows_per_step=params.batch_rows,
        micro_rows=params.micro_rows,
    )
    curve = held_out.first(params.eval_docs)
    result = train(
        model,
        next_token_loss,
        Source(source, adapter),
        params,
        stage=STAGE,
        seed=seed,
        fingerprint=checkpoint.fingerprint([seed, to_dict(params)], base, packed, encoded / "validation"),
        evaluate=lambda: {f"val_{name}": value for name, value in curve.measure(model)["all"].items()},
        sample=sampler(model, tokenizer, held_out, seed),
    )
    tensors = adapter_tensors(model)
    adapter.merge_into(model)
    metrics = {
        "params": model.num_params(),
        "trained_params": trained,
        "adapted_layers": len(adapted),
        "epochs": params.steps * params.batch_rows / rows.n_rows,
        "before": before,
        "after": held_out.measure(model),
    }
    return Tuned(model, tensors, result, metrics)


def write_tuned(folder: Path, tuned: Tuned, params: SftParams, tokenizer: Path) -> None:
    """The merged model, and the adapter beside it; call it inside `runtime.output_dir`."""
    extra = {"peft": to_dict(params.peft)}
    save_model(folder, tuned.model, stage=STAGE, tokenizer=tokenizer, extra=extra)
    if tuned.adapter:
        save_file(tuned.adapter, folder / "adapter.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Conversations:
    """Held-out conversations: rows of at most `seq_len` inputs, and what each answer's text weighs in bytes."""

    rows: list[list[Row]]
    n_bytes: list[int]
    kinds: list[str]

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer, seq_len: int) -> "Conversations":
        """Raises ValueError when the set is damaged or was made with another tokenizer."""
        data = EncodedSet.open(folder)
        check_tokenizer(data.meta, tokenizer.hash, folder)
        rows = [pieces(read_row(data, i), seq_len) for i in range(len(data))]
        return cls(rows, [doc["n_bytes"] for doc in data.docs], [doc["kind"] for doc in data.docs])

    def first(self, count: int) -> "Conversations":
        """At most `count` conversations, spread evenly over the set."""
        chosen = spread(len(self.rows), count)
        rows, n_bytes = [self.rows[i] for i in chosen], [self.n_bytes[i] for i in chosen]
        return Conversations(rows, n_bytes, [self.kinds[i] for i in chosen])

    def measure(self, model: Decoder) -> dict[str, dict[str, float]]:
        """Nats per scored token and bits per byte of the answers, over all and by kind (1)."""
        owner = [i for i, parts in enumerate(self.rows) for _ in parts]
        parts = [part for row in self.rows for part in row]
        nats = np.bincount(owner, -row_logps(model, parts, label="held-out"), minlength=len(self.rows))
        tokens = np.array([sum(int(part.mask.sum()) for part in row) for row in self.rows])
        kinds, n_bytes = np.array(self.kinds), np.array(self.n_bytes)
        groups = {"all": np.full(len(kinds), True)}
        groups |= {kind: kinds == kind for kind in sorted(set(self.kinds))}
        return {
            name: {
                "loss": float(nats[some].sum() / tokens[some].sum()),
                "bpb": float(nats[some].sum() / n_bytes[some].sum() / math.log(2)),
            }
            for name, some in groups.items()
        }


def sampler(
    model: Decoder, tokenizer: Tokenizer, held_out: Conversations, seed: int
) -> Callable[[], list[str]]:
    """A function that answers the first turns of a few held-out conversations with the model as it stands."""
    prompts = [opening(parts[0]) for parts in held_out.first(SAMPLES).rows]

    def sample() -> list[str]:
        room = model.config.max_len - max(map(len, prompts))
        completions = generate(
            model,
            prompts,
            max_new_tokens=min(SAMPLE_TOKENS, room),
            sampling=SamplingParams(temperature=0.8, top_p=0.95),
            stop_ids={tokenizer.eot_id, tokenizer.im_end_id},
            generator=torch.Generator().manual_seed(runtime.derive_seed(seed, STAGE, "sample")),
        )
        return [_shown(tokenizer, *pair) for pair in zip(prompts, completions.tokens, strict=True)]

    return sample


def opening(row: Row) -> list[int]:
    """The tokens before the first scored one: what the model is asked."""
    first = int(row.mask.argmax()) if row.mask.any() else len(row)
    return [int(token) for token in row.ids[:first]]


def _shown(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> str:
    asked, said = (tokenizer.decode(list(ids), skip_special=True) for ids in (prompt, answer))
    return f"  {asked}|{said}".replace("\n", "\n  ")
