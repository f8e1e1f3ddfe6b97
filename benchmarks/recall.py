"""Which mixers can replace what they remember? Two layers of width 64 learn to look up the newest value of a key.

    python -m benchmarks.recall [--kinds linear delta …] [--steps 600] [--seed 0]

A row writes 24 pairs of a key and a value; its 8 keys are drawn among 32 and written three times on average, each
time with another of 32 values. Then every key is asked for once. Printed: the share of right answers after training
on fresh rows, apart for keys written once and keys written more often. A guess among the values is right in 3 %.
"""

import argparse

import torch
import yaml
from torch import Tensor

from benchmarks.ablate import TINY, fit
from llm.nn.model import ModelConfig
from llm.nn.objective import TokenBatch
from llm.params import from_dict

KEYS, VALUES, HERE, WRITES, ROWS = 32, 32, 8, 24, 32
KINDS = ("linear", "lightning", "mamba2", "delta", "gated_delta", "kda", "gqa")
GIVEN = {"gqa": {"n_heads": 4, "n_kv_heads": 2}, "mamba2": {"d_head": 16}}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--kinds", nargs="+", default=KINDS)
    cli.add_argument("--steps", type=int, default=600)
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    print("| mixer | written once | written again |\n|---|---:|---:|")
    for kind in args.kinds:
        model = yaml.safe_load(TINY) | {"mixer": {"kind": kind, **GIVEN.get(kind, {})}}
        model = fit(from_dict(ModelConfig, model, "model"), KEYS + VALUES, batches(), args.steps, args.seed)
        once, again = zip(*(score(model, *make(seed)) for seed in range(10_000, 10_016)), strict=True)
        print(f"| {kind} | {torch.cat(once).mean():.3f} | {torch.cat(again).mean():.3f} |", flush=True)


def make(seed: int) -> tuple[TokenBatch, Tensor]:
    """Rows of writes and questions, and how often the key of each question was written."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.stack([torch.randperm(KEYS, generator=generator)[:HERE] for _ in range(ROWS)])
    picks = torch.randint(HERE, (ROWS, WRITES - HERE), generator=generator)
    picks = torch.cat([torch.arange(HERE).expand(ROWS, -1), picks], 1)  # each key at least once
    picks = torch.stack([row[torch.randperm(WRITES, generator=generator)] for row in picks])
    values = torch.randint(VALUES, (ROWS, WRITES), generator=generator) + KEYS
    newest = torch.zeros(ROWS, HERE, dtype=torch.long)
    for t in range(WRITES):
        newest.scatter_(1, picks[:, t : t + 1], values[:, t : t + 1])
    written = torch.stack([(picks == place).sum(1) for place in range(HERE)], 1)
    story = torch.stack([keys.gather(1, picks), values], 2).flatten(1)
    row = torch.cat([story, torch.stack([keys, newest], 2).flatten(1)], 1)
    asked = (torch.arange(row.shape[1]) >= 2 * WRITES) & (torch.arange(row.shape[1]) % 2 == 1)
    return TokenBatch(row[:, :-1], row[:, 1:], asked[1:].expand(ROWS, -1)), written


def batches():
    seed = 0
    while True:
        yield make(seed)[0]
        seed += 1


@torch.no_grad()
def score(model: torch.nn.Module, batch: TokenBatch, written: Tensor) -> tuple[Tensor, Tensor]:
    """Right answers as 0 or 1, for keys written once and for the others."""
    right = (model(batch.tokens_BT).argmax(-1) == batch.targets_BT)[batch.mask_BT].view_as(written).float()
    return right[written == 1], right[written > 1]


if __name__ == "__main__":
    main()
