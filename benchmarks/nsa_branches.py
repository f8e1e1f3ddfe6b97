"""What each of the three branches of nsa is for: the two tasks of ablate.py with some of the gates shut.

    python benchmarks/nsa_branches.py                       # all three
    python benchmarks/nsa_branches.py --shut summaries      # or: chosen, window
    python benchmarks/nsa_branches.py summary=mean          # fields of the Config; seed=1

Rows of 47 tokens; summaries of 4 tokens, every 2; 4 blocks of 4 and a window of 4 tokens read in full.
"""

import argparse

import torch
import yaml
from ablate import TINY, copy, zen
from torch import Tensor

from llm.nn.mixers.nsa import NativeSparseAttention
from llm.nn.model import ModelConfig
from llm.params import from_dict

BRANCHES = ["summaries", "chosen", "window"]
MIXER = {
    "kind": "nsa", "n_heads": 4, "n_kv_heads": 2, "block": 4, "stride": 2, "select": 4, "top_k": 4, "window": 4,
}  # fmt: skip


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("settings", nargs="*", help="field=value of the Config, or seed=value")
    cli.add_argument("--shut", choices=BRANCHES, action="append", default=[])
    args = cli.parse_intermixed_args()
    torch.set_num_threads(1)
    values = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.settings)}
    seed = values.pop("seed", 0)
    config = from_dict(ModelConfig, yaml.safe_load(TINY) | {"mixer": MIXER | values}, "model")
    shut_gates([BRANCHES.index(name) for name in args.shut])
    what = " ".join([*args.settings, *(f"without {name}" for name in args.shut)]) or "all three"
    print(f"{what}: copy {copy(config, seed):.3f}, zen {zen(config, seed):.3f}")


def shut_gates(shut: list[int]) -> None:
    """Multiply the outputs of these branches by 0."""
    mix = NativeSparseAttention.mix

    def mix_open(self: NativeSparseAttention, x_BTD: Tensor, *outputs: Tensor) -> Tensor:
        far, full, near = (out * (i not in shut) for i, out in enumerate(outputs))
        return mix(self, x_BTD, far, full, near)

    NativeSparseAttention.mix = mix_open  # type: ignore[assignment]


if __name__ == "__main__":
    main()
