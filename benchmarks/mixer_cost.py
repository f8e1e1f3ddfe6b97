"""What a mixer costs by the length: milliseconds of CPU time and state bytes of one layer, one thread.

    python benchmarks/mixer_cost.py gqa n_heads=4 n_kv_heads=2
    python benchmarks/mixer_cost.py dsa --lengths 512 1024 2048 --dtype bfloat16

read: the training form of one row without gradients; train: with the backward pass; decode: one more token
for each of some rows after T of them; bytes of one row. The best of five, decode of forty; d_model 256, RoPE,
and the losses a mixer has of its own.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch import Tensor

from llm import registry
from llm.nn.mixers.base import Context, Mixer, Site, next_step
from llm.nn.position.base import Position, Shape
from llm.params import from_dict

D, ROUNDS, STEPS = 256, 5, 40
Parts = tuple[Mixer[Any], Position]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("kind")
    cli.add_argument("settings", nargs="*", help="field=value of the Config")
    cli.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    cli.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    cli.add_argument("--rows", type=int, default=8, help="of decoding")
    args = cli.parse_intermixed_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    values = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.settings)}
    parts = build(args.kind, values, max(args.lengths) + STEPS + 1, dtype)
    print(f"{args.kind} {' '.join(args.settings)} {args.dtype}")
    print(f"{'T':>6} {'read ms':>9} {'train ms':>9} {'decode ms':>10} {'state bytes':>12}")
    for T in args.lengths:
        x_BTD = torch.randn(1, T, D, dtype=dtype)
        read, train = (best(functools.partial(forward, parts, x_BTD, learn)) for learn in (False, True))
        ms, nbytes = decode(parts, x_BTD.expand(args.rows, -1, -1))
        print(f"{T:6d} {read:9.1f} {train:9.1f} {ms:10.3f} {nbytes:12,d}", flush=True)


def build(kind: str, values: dict[str, Any], max_len: int, dtype: torch.dtype) -> Parts:
    norm = registry.module("llm.nn.norm", "rmsnorm").Config()
    site = Site(d_model=D, layer=0, n_layers=1, max_len=max_len, norm=norm)
    config = from_dict(registry.module("llm.nn.mixers", kind).Config, values, "settings")
    mixer: Mixer[Any] = registry.build(config, site)
    for module in mixer.modules():
        if hasattr(module, "finish_init"):
            with torch.no_grad():
                module.finish_init()  # type: ignore[operator]
    rope = registry.module("llm.nn.position", "rope")
    shape = Shape(d_model=D, max_len=max_len, widths=mixer.rotates, n_heads=mixer.n_heads)
    return mixer.to(dtype), rope.build(rope.Config(), shape)


def best(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Milliseconds of CPU time of the fastest of some runs after a first one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        t0 = time.process_time()
        run()
        seconds.append(time.process_time() - t0)
    return 1000 * min(seconds[1:])


def forward(parts: Parts, x_BTD: Tensor, learn: bool) -> None:
    mixer, position = parts
    positions = torch.arange(x_BTD.shape[1])
    angles = position.angles(positions, x_BTD.dtype)
    context = Context(positions=positions, dtype=x_BTD.dtype, angles=angles)
    with torch.set_grad_enabled(learn):
        loss = mixer(x_BTD, position, context).square().sum()
        for extra in context.losses:
            loss = loss + extra
    if learn:
        torch.autograd.backward(loss)


@torch.no_grad()
def decode(parts: Parts, x_BTD: Tensor) -> tuple[float, int]:
    """Milliseconds of one more token, and the bytes of a state with room for it."""
    mixer, position = parts
    T = x_BTD.shape[1]
    state = mixer.init_state(len(x_BTD), T + STEPS + 1, device=x_BTD.device, dtype=x_BTD.dtype)
    for begin in range(0, T, 256):  # so that no form has to read T tokens at once
        piece = x_BTD[:, begin : begin + 256]
        mixer.prefill(piece, position, state, next_step(state, position, piece.shape[1], x_BTD.dtype))

    def one() -> None:
        mixer.decode(x_BTD[:, :1], position, state, next_step(state, position, 1, x_BTD.dtype))

    return best(one, STEPS), state.nbytes // len(x_BTD)


if __name__ == "__main__":
    main()
