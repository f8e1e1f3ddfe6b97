"""attention_speed: milliseconds of the forms of attention against the length of a row.

    python -m benchmarks.attention_speed [--dtype bf16] [--lengths 256 512 1024 2048 4096 8192]

Forward and backward of one layer, 4 query and 2 key-value heads of width 64, the same number of tokens at every
length; the forms take turns, the fastest round counts. `packed` rows hold documents of about 300 tokens.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable

import torch
from torch import Tensor

from llm.nn.kernels.attention import RUN, full_mask, visible_mask
from llm.runtime import set_up_torch

N, G, H, DOCUMENT = 4, 2, 64, 300
FORMS = ("matmul", "sdpa", "flash", "triton")
LARGEST_MATRIX = 4096  # of the form that keeps whole matrices


def forms(T: int, tokens: int, dtype: torch.dtype, device: torch.device, packed: bool) -> dict[str, Callable]:
    """A forward and backward pass of every form that runs here."""
    B = max(1, tokens // T)
    q, k, v = (
        torch.randn(B, heads, T, H, dtype=dtype, device=device, requires_grad=True) for heads in (N, G, G)
    )
    segments = torch.arange(T, device=device).div(DOCUMENT, rounding_mode="floor").expand(B, T) + 1
    segments_BT = segments.contiguous() if packed else None
    mask = None if segments_BT is None else visible_mask(segments_BT, dtype)  # made once for all layers
    d_out = torch.randn(B, N, T, H, device=device).to(dtype)

    def run(name: str) -> Callable[[], tuple[Tensor, ...]]:
        causal = full_mask(q, mask, None) if name == "matmul" else mask
        return lambda: torch.autograd.grad(
            RUN[name](q, k, v, segments_BT, causal, None, None), (q, k, v), d_out
        )

    usable = [name for name in FORMS if name != "triton" or device.type == "cuda"]
    return {name: run(name) for name in usable if name != "matmul" or T <= LARGEST_MATRIX}


def fastest(runs: dict[str, Callable], rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of the fastest round of each; they take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(rounds + 1):
        for name, run in runs.items():
            t0 = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                best[name] = min(best[name], (time.perf_counter() - t0) * 1e3)
    return best


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    cli.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    cli.add_argument("--tokens", type=int, default=4096)
    cli.add_argument("--rounds", type=int, default=5)
    args = cli.parse_args()
    set_up_torch(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.dtype]
    print(f"{args.dtype}, {device.type}, {torch.get_num_threads()} threads")
    print("| rows | T | " + " | ".join(FORMS) + " |\n" + "|---" * (2 + len(FORMS)) + "|")
    for packed in (False, True):
        for T in args.lengths:
            found = fastest(forms(T, args.tokens, dtype, device, packed), args.rounds, device)
            cells = [f"{found[name]:.1f}" if name in found else "" for name in FORMS]
            print(f"| {'packed' if packed else 'whole'} | {T} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
