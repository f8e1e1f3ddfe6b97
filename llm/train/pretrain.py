"""pretrain: packed rows -> a base model: which rows, what is measured on the way, what is written.

The loop itself is `llm.train.loop`; here are its source, its evaluation (bits per byte of held-out documents)
and its samples.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from llm import runtime
from llm.data.encoded import EncodedSet, check_tokenizer
from llm.data.packed import PackedRows, RowSource
from llm.eval.perplexity import ScoredDocument, bits_per_byte
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn import io
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import next_token_loss
from llm.params import to_dict
from llm.tokenizer.base import Tokenizer, load_tokenizer
from llm.train import checkpoint, telemetry
from llm.train.loop import LoopParams, TrainingParams, TrainResult, train
from llm.train.precision import MasterWeights

STAGE = "pretrain"
PROMPTS = ("Once upon a time", "The old woman said", "A: Hello, how are you?\nB:")
SAMPLE_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class PretrainParams(TrainingParams):
    """batch_rows: rows of a step; micro_rows: rows of one forward pass, chosen by memory alone.

    Exactly one of steps, token_budget (tokens read) and byte_budget (bytes of text read, by the mean bytes of a
    token of the training set: what makes runs with different tokenizers comparable) is given.
    eval_docs: validation documents measured during training; at the end all of them are.
    """

    batch_rows: int
    micro_rows: int
    steps: int | None
    token_budget: int | None
    eval_docs: int
    byte_budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_rows", "micro_rows", "eval_docs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        budgets = {name: getattr(self, name) for name in ("steps", "token_budget", "byte_budget")}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1:
            found = ", ".join(f"{name} {value}" for name, value in given.items()) or "none"
            raise ValueError(f"give exactly one of {', '.join(budgets)} ({found}), the others null")
        [(name, value)] = given.items()
        if value < 1:
            raise ValueError(f"{name} ({value}) must be positive")

    def n_steps(self, seq_len: int, bytes_per_token: Callable[[], float]) -> int:
        """Optimizer steps: `steps`, or as many as the budget pays for, rounded up."""
        if self.steps is not None:
            return self.steps
        tokens = self.token_budget or (self.byte_budget or 0) / bytes_per_token()
        return math.ceil(tokens / (self.batch_rows * seq_len))

    def loop(self, seq_len: int, bytes_per_token: Callable[[], float]) -> LoopParams:
        """The part of the params the loop reads."""
        return LoopParams(
            steps=self.n_steps(seq_len, bytes_per_token),
            log_every=self.log_every,
            eval_every=self.eval_every,
            save_every=self.save_every,
            grad_clip=self.grad_clip,
            precision=self.precision,
            optimizer=self.optimizer,
            schedule=self.schedule,
            telemetry_every=self.telemetry_every,
        )


@dataclass(frozen=True)
class Inputs:
    """The folders the stage reads, opened and checked against each other."""

    packed: PackedRows
    validation: EncodedSet
    tokenizer: Tokenizer
    encoded: Path
    folders: tuple[Path, ...]  # what the result depends on

    @classmethod
    def open(cls, packed: Path, encoded: Path, tokenizer: Path) -> "Inputs":
        """Raises ValueError when a folder is damaged or was made with another tokenizer."""
        rows, held_out = PackedRows.open(packed), EncodedSet.open(encoded / "validation")
        vocabulary = load_tokenizer(tokenizer)
        check_tokenizer(rows.meta, vocabulary.hash, packed, tokenizer)
        check_tokenizer(held_out.meta, vocabulary.hash, encoded / "validation", tokenizer)
        return cls(rows, held_out, vocabulary, encoded, (packed, encoded / "validation", tokenizer))

    def bytes_per_token(self) -> float:
        """Bytes of text for each scored token of the training documents."""
        documents = EncodedSet.open(self.encoded / "train")
        n_bytes = sum(document["n_bytes"] for document in documents.docs)
        return float(n_bytes / documents.loss_mask.sum(dtype="int64"))


def pretrain(
    inputs: Inputs, model_config: ModelConfig, params: PretrainParams, seed: int
) -> tuple[Decoder, TrainResult, dict[str, Any]]:
    """Train a base model on the packed rows; returns it with its history and its metrics."""
    packed, seq_len = inputs.packed, inputs.packed.seq_len
    if model_config.max_len < seq_len:
        raise ValueError(
            f"model.max_len ({model_config.max_len}) is below pack.seq_len ({seq_len}); raise it"
        )
    torch.manual_seed(runtime.derive_seed(seed, STAGE, "init"))
    model = Decoder(model_config, packed.meta["vocab_size"])
    flops = telemetry.flops_per_token(model, next_token_loss, packed.batch(np.arange(1)))
    compile_blocks(model.to(runtime.device_name()))

    rows_seed = runtime.derive_seed(seed, STAGE, "rows")
    source = RowSource(packed, seed=rows_seed, rows_per_step=params.batch_rows, micro_rows=params.micro_rows)
    documents = validation_documents(inputs.validation)
    chosen = subset(documents, params.eval_docs, seed)
    settings = [seed, to_dict(model_config), to_dict(params)]
    loop = params.loop(seq_len, inputs.bytes_per_token)
    result = train(
        model,
        next_token_loss,
        source,
        loop,
        stage=STAGE,
        seed=seed,
        fingerprint=checkpoint.fingerprint(settings, *inputs.folders),
        evaluate=lambda: {"val_bpb": bits_per_byte(model, chosen, seq_len=seq_len)["all"]},
        best="val_bpb",
        sample=sampler(model, inputs.tokenizer, seed),
    )
    with MasterWeights(model, params.precision):  # as it was trained; the eval stage measures in float32
        val_bpb = bits_per_byte(model, documents, seq_len=seq_len)
    tokens = loop.steps * params.batch_rows * seq_len
    metrics = {
        "params": model.num_params(),
        "flops_per_token": flops,
        "steps": loop.steps,
        "tokens": tokens,
        "epochs": tokens / (packed.n_rows * seq_len),
        "loss": result.history[-1]["loss"],
        "best_step": result.best_step,
        "val_bpb": val_bpb,
    }
    return model, result, metrics


def write_model(folder: Path, model: Decoder, result: TrainResult, tokenizer: Path) -> None:
    """The model folder: the final weights, and beside them those of the best evaluation."""
    io.save_model(folder, model, stage=STAGE, tokenizer=tokenizer, extra={"best_step": result.best_step})
    result.load_best(model)
    save_file(io.state_dict(model), folder / "best.safetensors", metadata={"format": "pt"})


def curve(result: TrainResult, params: PretrainParams) -> list[list[float | None]]:
    """Rows step, loss, val_bpb, grad_norm, lr of plots/pretrain.csv; lr is that of the matrices."""
    base = params.optimizer.matrices.lr
    return [
        [row["step"], row["loss"], row.get("val_bpb"), row["grad_norm"], base * row["lr_frac"]]
        for row in result.history
    ]


def validation_documents(encoded: EncodedSet) -> list[ScoredDocument]:
    """All documents as (ids, bytes of the text, kind)."""
    return [(encoded.doc(i).tolist(), doc["n_bytes"], doc["kind"]) for i, doc in enumerate(encoded.docs)]


def subset(documents: list[ScoredDocument], n_docs: int, seed: int) -> list[ScoredDocument]:
    """`n_docs` documents, the same in every run with this seed; all when there are no more."""
    order = np.random.Generator(np.random.PCG64(runtime.derive_seed(seed, STAGE, "eval"))).permutation(
        len(documents)
    )
    return [documents[i] for i in sorted(order[:n_docs])]


def sampler(model: Decoder, tokenizer: Tokenizer, seed: int) -> Callable[[], list[str]]:
    """A function that continues the fixed prompts with the model as it then stands."""
    longest = model.config.max_len // 2
    prompts = [[tokenizer.eot_id, *tokenizer.encode(prompt)][-longest:] for prompt in PROMPTS]

    def sample() -> list[str]:
        room = model.config.max_len - longest
        completions = generate(
            model,
            prompts,
            max_new_tokens=min(SAMPLE_TOKENS, room),
            sampling=SamplingParams(temperature=0.8, top_p=0.95),
            stop_ids={tokenizer.eot_id},
            generator=torch.Generator().manual_seed(runtime.derive_seed(seed, STAGE, "sample")),
        )
        texts = (tokenizer.decode(tokens, skip_special=True) for tokens in completions.tokens)
        return [
            f"  {prompt}|{text}".replace("\n", "\n  ") for prompt, text in zip(PROMPTS, texts, strict=True)
        ]

    return sample


def compile_blocks(model: Decoder) -> None:
    """LLM_COMPILE=1: compile every block in place. A machine fact: it changes speed, not what is computed."""
    if os.environ.get("LLM_COMPILE") == "1":
        for block in model.blocks:
            block.compile()
