"""quantize: a trained model to packed integers by one method, and what that costs in bits per byte."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.compress.quantize import QuantizeParams, load_method, quantize
from llm.runtime import run_stage, set_up_torch, write_json


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml this stage reads; of the methods' mappings only the chosen one."""

    seed: int
    quantize: QuantizeParams


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--method", required=True, help="a kind of llm/compress/quant")
    for flag in ("--model", "--packed", "--raw", "--out", "--metrics"):
        cli.add_argument(flag, type=Path, required=True)
    args = cli.parse_args()
    params, config = load_method(Params, args.method)
    set_up_torch(params.seed)

    metrics = quantize(
        args.model, args.packed, args.raw, args.out, params=params.quantize, config=config, seed=params.seed
    )
    write_json(args.metrics, metrics)


if __name__ == "__main__":
    run_stage(main)
