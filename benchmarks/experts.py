"""Train a tiny mixture of experts with and without what keeps its experts busy: the experiment of docs/nn/ffn.

    python benchmarks/experts.py       two seeds of every row, about two minutes on one core

The model and the text are those of `benchmarks/ablate.py` (zen: 856 bytes by heart, 150 steps), the routers start
large (std 0.5), so that tokens disagree from the start. Printed for each row: nats per byte; over the last 20 steps
and all layers the tokens of the busiest expert over the mean, and the share of experts without any token.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
import ablate

from llm.nn.ffn import base as ffn
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import from_dict

SHARED: dict[str, Any] = {"n_experts": 16, "n_active": 2, "d_ff": 40, "router_std": 0.5}
ROWS: dict[str, dict[str, Any]] = {
    "moe: auxiliary loss": {"kind": "moe", **SHARED},
    "moe: neither loss": {"kind": "moe", **SHARED, "aux_weight": 0.0, "z_weight": 0.0},
    "moe: ten times the loss": {"kind": "moe", **SHARED, "aux_weight": 0.1},
    "moe: not renormalised": {"kind": "moe", **SHARED, "renormalise": False},
    "moe_deepseek: bias, rate 0.001": {"kind": "moe_deepseek", **SHARED},
    "moe_deepseek: bias, rate 0.01": {"kind": "moe_deepseek", **SHARED, "bias_rate": 0.01},
    "moe_deepseek: no bias": {"kind": "moe_deepseek", **SHARED, "bias_rate": 0.0, "balance_weight": 0.0},
    "moe_deepseek: no shared expert": {"kind": "moe_deepseek", **SHARED, "n_shared": 0, "n_active": 3},
    "swiglu as wide as the active experts": {"kind": "swiglu", "d_ff": 80},
    "swiglu as wide as all experts": {"kind": "swiglu", "d_ff": 640},
}


def main() -> None:
    for name, part in ROWS.items():
        results = [run(part, seed) for seed in (0, 1)]
        columns = [" / ".join(f"{value:.3f}" for value in column) for column in zip(*results, strict=True)]
        print(f"{name:40}" + "   ".join(columns), flush=True)


def run(part: dict[str, Any], seed: int) -> tuple[float, ...]:
    """Nats per byte after training, and the two facts of the load (nothing for dense layers)."""
    config = from_dict(ModelConfig, yaml.safe_load(ablate.TINY) | {"ffn": part}, "model")
    torch.manual_seed(seed)
    model = Decoder(config, 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=ablate.LR, betas=(0.9, 0.95), weight_decay=0.0)
    text = ablate.zen_bytes()
    facts: list[dict[str, float]] = []
    for _step, batch in zip(range(ablate.ZEN_STEPS), ablate.zen_batches(text), strict=False):
        ffn.before_step(model)
        loss = next_token_loss(model, batch)
        (loss.sum / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        facts.append(ffn.after_step(model))
    windows = text.unfold(0, 65, 64)
    mask = torch.ones_like(windows[:, 1:], dtype=torch.bool)
    with torch.no_grad():
        loss = next_token_loss(model.eval(), TokenBatch(windows[:, :-1], windows[:, 1:], mask))
    means = [sum(fact[name] for fact in facts[-20:]) / 20 for name in facts[-1]]
    return float(loss.sum) / loss.count, *means


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
