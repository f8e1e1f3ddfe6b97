"""The matrices of a token times one bf16 vector, as the kernels that PyTorch offers for it.

    python -m benchmarks.vector_products [--rounds 40]

Processor time of one thread, fastest round, all kernels in turn. Every shape has eight matrices, so that none of them
waits in the nearest cache.
"""

import argparse
import contextlib
import time

import torch
import torch.nn.functional as F

from benchmarks.train_speed import D, G, L, N, V
from benchmarks.train_speed import F as WIDTH

QKV = (N + 2 * G) * (D // N)
SHAPES = {
    (QKV, D): L,
    (D, D): L,
    (2 * WIDTH, D): L,
    (D, WIDTH): L,
    (V, D): 1,
}  # and how often a token meets each


@contextlib.contextmanager
def onednn(enabled: bool):
    torch._C._set_mkldnn_enabled(enabled)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


KERNELS = {
    "three dimensions": (True, lambda w, x: F.linear(x[None, None], w)),
    "mv, oneDNN": (True, torch.mv),
    "mv, PyTorch's own": (False, torch.mv),
}


@torch.inference_mode()
def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--rounds", type=int, default=40)
    rounds = cli.parse_args().rounds
    torch.set_num_threads(1)
    total = dict.fromkeys(KERNELS, 0.0)
    for (rows, columns), times in SHAPES.items():
        x = torch.randn(columns).bfloat16()
        weights = [torch.randn(rows, columns).bfloat16() for _ in range(8)]
        best = dict.fromkeys(KERNELS, float("inf"))
        for _ in range(rounds):
            for name, (enabled, multiply) in KERNELS.items():
                with onednn(enabled):
                    t0 = time.thread_time()
                    for w in weights:
                        multiply(w, x)
                    best[name] = min(best[name], (time.thread_time() - t0) / len(weights) * 1e6)
        print(
            f"{rows} x {columns}: " + ", ".join(f"{name} {us:.0f} us" for name, us in best.items()),
            flush=True,
        )
        total = {name: us + times * best[name] for name, us in total.items()}
    print("a token: " + ", ".join(f"{name} {us:.0f} us" for name, us in total.items()))


if __name__ == "__main__":
    main()
