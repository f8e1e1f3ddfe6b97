"""Training tokens a second beside `transformers`, same shapes, same batch, alternating in one process.

    python -m benchmarks.train_speed [--rounds 12]

Ours is what the pretrain stage does on a CPU: bf16 weights with float32 masters, Muon + AdamW. The reference is
LlamaForCausalLM in its fastest of three modes (float32, bf16 autocast, bf16 weights) with torch's fused AdamW.
A step is forward, backward, clipping and the optimizer. Beside it stands the bound: the time of the matrix
products of the step alone, at bf16.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.optim._groups import OptimizerParams, build_optimizers, split
from llm.params import from_dict
from llm.runtime import set_up_torch
from llm.train.precision import MasterWeights

D, L, N, G, F, V, T, B = 256, 8, 4, 2, 683, 4096, 256, 16
MODEL = {
    "d_model": D, "n_layers": L, "max_len": T, "tied_head": False,
    "mixer": {"kind": "gqa", "n_heads": N, "n_kv_heads": G}, "ffn": {"kind": "swiglu", "d_ff": F},
    "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
}  # fmt: skip
OPTIMIZER = {"matrices": {"kind": "muon", "lr": 0.02}, "rest": {"kind": "adamw", "lr": 0.003}}


def ours(tokens: Tensor, optimizer: dict) -> Callable[[], None]:
    """One step of this project's training path."""
    model = Decoder(from_dict(ModelConfig, MODEL, "model"), V)
    weights = MasterWeights(model, "bf16")
    optimizers = build_optimizers(
        split(model), weights.masters, from_dict(OptimizerParams, optimizer, "optimizer")
    )
    mask = torch.ones(B, T, dtype=torch.bool)
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], mask, torch.ones(B, T, dtype=torch.long))

    def step() -> None:
        loss = next_token_loss(model, batch)
        (loss.sum / loss.count).backward()
        weights.collect()
        weights.clip(1.0)
        for one in optimizers:
            one.schedule(1.0)
            one.step()
        weights.publish()

    return step


def theirs(tokens: Tensor, mode: str) -> Callable[[], None]:
    """One step of transformers' Llama in one of three modes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=N,
        num_key_value_heads=G, max_position_embeddings=T, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16 if mode == "bf16" else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            logits = model(input_ids=inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def matrix_products() -> Callable[[], None]:
    """Forward and both backward products of every linear layer and of attention, and nothing else."""
    M, H = B * T, D // N
    shapes = [(D, (N + 2 * G) * H), (D, D), (D, 2 * F), (F, D)] * L + [(D, V)]
    made = [
        (torch.randn(M, i).bfloat16(), torch.randn(o, i).bfloat16(), torch.randn(M, o).bfloat16())
        for i, o in shapes
    ]
    q = torch.randn(B * N, T, H).bfloat16()
    p = torch.randn(B * N, T, T).bfloat16()

    def run() -> None:
        for x, w, g in made:
            x @ w.t()
            g @ w
            g.t() @ x
        for _ in range(L):
            q @ q.mT, p @ q, p.mT @ q, q @ q.mT, p @ q, p.mT @ q

    return run


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--rounds", type=int, default=12)
    rounds = cli.parse_args().rounds
    set_up_torch(0)
    tokens = torch.randint(0, V, (B, T + 1))
    adamw = {"matrices": {"kind": "adamw", "lr": 0.001}, "rest": {"kind": "adamw", "lr": 0.001}}
    runners = {
        "ours, Muon + AdamW": ours(tokens, OPTIMIZER),
        "ours, AdamW": ours(tokens, adamw),
        **{f"transformers {mode}": theirs(tokens, mode) for mode in ("fp32", "autocast", "bf16")},
        "matrix products alone": matrix_products(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 2):
        for name, run in runners.items():
            t0 = time.perf_counter()
            run()
            if turn >= 2:  # the first two turns warm up
                seconds[name].append(time.perf_counter() - t0)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(value for name, value in medians.items() if name.startswith("transformers"))
    print(f"{B} rows x {T} tokens, d_model {D}, {L} layers, {N}/{G} heads, d_ff {F}, vocabulary {V}; "
          f"{torch.get_num_threads()} threads, median of {rounds} alternating steps")  # fmt: skip
    for name, median in medians.items():
        print(f"{name:24s} {median * 1e3:8.1f} ms  {B * T / median:9.0f} tokens/s  "
              f"{best / median:5.2f} x the fastest transformers mode")  # fmt: skip


if __name__ == "__main__":
    main()
