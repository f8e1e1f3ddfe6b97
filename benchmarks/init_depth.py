"""Size of the residual stream by depth, before the first step, for every initialisation: docs/images/init_depth.png.

    python benchmarks/init_depth.py [docs/images/init_depth.png]

A model of 32 layers (width 128, GQA and SwiGLU) reads 4 rows of 64 random tokens. Left: the root mean square of the
stream after each block. Right: the norm of the gradient of each block's matrices, from the loss of the next token.
"""

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch

from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import from_dict

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen

D, LAYERS, VOCAB, T = 128, 32, 256, 64
SHAPE: dict[str, Any] = {
    "d_model": D, "n_layers": LAYERS, "max_len": T, "tied_head": False,
    "ffn": {"kind": "swiglu"},
    "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"},
}  # fmt: skip
ROWS: dict[str, tuple[dict[str, Any], str, bool]] = {  # init, residual, qk_norm
    "gpt2": ({"kind": "gpt2", "std": 0.02}, "pre_norm", False),
    "gpt2, std 1/sqrt(D)": ({"kind": "gpt2", "std": 1 / math.sqrt(D)}, "pre_norm", False),
    "xavier": ({"kind": "xavier"}, "pre_norm", False),
    "xavier, depth_scale": ({"kind": "xavier", "depth_scale": True}, "pre_norm", False),
    "kaiming": ({"kind": "kaiming"}, "pre_norm", False),
    "kaiming, depth_scale": ({"kind": "kaiming", "depth_scale": True}, "pre_norm", False),
    "xavier, post_norm": ({"kind": "xavier"}, "post_norm", False),
    "xavier, output_norm": ({"kind": "xavier"}, "output_norm", False),
    "xavier, output_norm, QK-norm": ({"kind": "xavier"}, "output_norm", True),
}


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/init_depth.png")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for name, (init, residual, qk_norm) in ROWS.items():
        sizes, gradients, loss = measure(init, residual, qk_norm)
        left.plot(range(1, LAYERS + 1), sizes, label=name)
        right.plot(range(1, LAYERS + 1), gradients, label=name)
        picked = "  ".join(f"{sizes[i]:7.3f}" for i in (0, 7, 15, 31))
        slopes = "  ".join(f"{gradients[i]:7.3f}" for i in (0, 15, 31))
        print(
            f"{name:29} stream after 1, 8, 16, 32: {picked}   gradient of 1, 16, 32: {slopes}   loss {loss:.2f}"
        )
    left.set(xlabel="block", ylabel="root mean square of the stream", yscale="log")
    right.set(xlabel="block", ylabel="norm of the gradient", yscale="log")
    left.legend(fontsize=7)
    figure.savefig(out, dpi=110, metadata={"Software": None})


def measure(init: dict[str, Any], residual: str, qk_norm: bool) -> tuple[list[float], list[float], float]:
    """Size of the stream after each block, norm of each block's gradient, mean loss; at the start."""
    torch.manual_seed(0)
    mixer = {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2, "qk_norm": qk_norm}
    choices = {"mixer": mixer, "init": init, "residual": {"kind": residual}}
    config = from_dict(ModelConfig, SHAPE | choices, "model")
    model = Decoder(config, VOCAB)
    sizes: list[float] = []
    for block in model.layers:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(rms(out[0])))
    tokens = torch.randint(VOCAB, (4, T + 1))
    mask = torch.ones(4, T, dtype=torch.bool)
    loss = next_token_loss(model, TokenBatch(tokens[:, :-1], tokens[:, 1:], mask))
    (loss.sum / loss.count).backward()
    gradients = [
        math.sqrt(
            sum(float(p.grad.square().sum()) for p in block.parameters() if p.ndim > 1 and p.grad is not None)
        )
        for block in model.layers
    ]
    return sizes, gradients, float(loss.sum.detach()) / loss.count


def rms(x: torch.Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
