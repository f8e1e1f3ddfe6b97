"""What the warm-up of sparse attention is for: the copy task of ablate.py, read with top_k of up to 47 tokens.

    python benchmarks/dsa_stages.py                    # warm-up, then sparse: 400 + 200 steps
    python benchmarks/dsa_stages.py --warmup 0         # sparse from the first step
    python benchmarks/dsa_stages.py --no-loss          # the indexer never learns

Prints the accuracy after the warm-up, read densely and read sparsely, and after the sparse stage.
"""

import argparse

import torch
import yaml
from ablate import LR, SYMBOLS, TINY, copy_batches

from llm.nn.mixers.dsa import SparseAttention
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import next_token_loss
from llm.params import from_dict


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--warmup", type=int, default=400)
    cli.add_argument("--sparse", type=int, default=200)
    cli.add_argument("--top-k", type=int, default=8)
    cli.add_argument("--no-loss", action="store_true")
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    mixer = {
        "kind": "dsa", "n_heads": 4, "n_kv_heads": 2, "index_heads": 4, "index_dim": 16, "index_rope": 8,
        "top_k": args.top_k,
    }  # fmt: skip
    model = Decoder(from_dict(ModelConfig, yaml.safe_load(TINY) | {"mixer": mixer}, "model"), SYMBOLS)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (args.no_loss and ".indexer." in name))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    batches = copy_batches()
    for step in range(args.warmup + args.sparse):
        if step == args.warmup:
            print(
                f"after the warm-up: dense {score(model, 'warmup'):.3f}, sparse {score(model, 'sparse'):.3f}"
            )
        set_stage(model, "warmup" if step < args.warmup else "sparse")
        loss = next_token_loss(model, next(batches))
        (loss.sum / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(f"at the end: sparse {score(model, 'sparse'):.3f}")


def set_stage(model: Decoder, stage: str) -> None:
    for module in model.modules():
        if isinstance(module, SparseAttention):
            module.stage = stage


@torch.no_grad()
def score(model: Decoder, stage: str) -> float:
    """Share of the repeated symbols that are foretold."""
    set_stage(model, stage)
    batch = next(copy_batches(seed=1))
    hits = model(batch.tokens_BT).argmax(-1) == batch.targets_BT
    return float(hits[batch.mask_BT].double().mean())


if __name__ == "__main__":
    main()
