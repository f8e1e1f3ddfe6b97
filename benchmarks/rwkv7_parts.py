"""RWKV-7 with one part taken away, on the two tasks of ablate.py: what each part is for.

  python -m benchmarks.rwkv7_parts [--parts whole no_shift …] [--seed 0]

whole      two layers of rwkv7 with four heads, each before a SwiGLU layer
no_shift   every token is its own predecessor
no_values  the second layer takes no values of the first
no_rate    what stands at a key is always replaced in full (a = 1)
no_removal nothing is removed; the state only fades (a = 0 in what is removed, and 1 in what is written)
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import yaml
from torch import Tensor

from benchmarks.ablate import TINY, copy, zen
from llm.nn.kernels import token_shift
from llm.nn.mixers import rwkv7
from llm.nn.model import ModelConfig
from llm.params import from_dict

Rule = rwkv7.Rule
SPLIT = rwkv7.RWKV7.split


def no_values(self: rwkv7.RWKV7, x: Tensor, before: Tensor, shared: dict[str, Tensor]) -> tuple[Rule, Tensor]:
    return SPLIT(self, x, before, {})


def no_removal(
    self: rwkv7.RWKV7, x: Tensor, before: Tensor, shared: dict[str, Tensor]
) -> tuple[Rule, Tensor]:
    (r, k, v, probe, _, decay), gate = no_rate(self, x, before, shared)
    return (r, k, v, probe, torch.zeros_like(probe), decay), gate


def no_rate(self: rwkv7.RWKV7, x: Tensor, before: Tensor, shared: dict[str, Tensor]) -> tuple[Rule, Tensor]:
    with mock.patch.object(self.rate, "forward", lambda x: torch.full_like(x, 1e4)):
        return SPLIT(self, x, before, shared)


PARTS = {
    "whole": (rwkv7.RWKV7, "split", SPLIT),
    "no_shift": (token_shift, "previous", lambda x, segments=None: x),
    "no_values": (rwkv7.RWKV7, "split", no_values),
    "no_rate": (rwkv7.RWKV7, "split", no_rate),
    "no_removal": (rwkv7.RWKV7, "split", no_removal),
}


@contextmanager
def without(part: str) -> Iterator[None]:
    target, name, value = PARTS[part]
    with mock.patch.object(target, name, value):
        yield


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    cli.add_argument("--seed", type=int, default=0)
    args = cli.parse_args()
    model = yaml.safe_load(TINY) | {"mixer": {"kind": "rwkv7", "d_head": 16}}
    config = from_dict(ModelConfig, model, "model")
    print("| | copy | zen |\n|---|---:|---:|")
    for part in args.parts:
        with without(part):
            print(f"| {part} | {copy(config, args.seed):.3f} | {zen(config, args.seed):.3f} |", flush=True)


if __name__ == "__main__":
    main()
