"""pretrain: packed rows -> base model, with its learning curve and its bits per byte on held-out text."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.nn.model import ModelConfig
from llm.params import load_params
from llm.runtime import output_dir, run_stage, set_up_torch, write_csv, write_json
from llm.train.pretrain import Inputs, PretrainParams, curve, pretrain, write_model


@dataclass(frozen=True, kw_only=True)
class Params:
    """The sections of params.yaml this stage reads."""

    seed: int
    model: ModelConfig
    pretrain: PretrainParams


def main() -> None:
    """Read the command line and params.yaml, train, write model, curve and metrics."""
    cli = ArgumentParser(description=__doc__)
    for flag in ("--packed", "--encoded", "--tokenizer", "--out", "--metrics", "--plots"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    set_up_torch(params.seed)
    inputs = Inputs.open(paths.packed, paths.encoded, paths.tokenizer)
    model, result, metrics = pretrain(inputs, params.model, params.pretrain, params.seed)
    with output_dir(paths.out) as folder:
        write_model(folder, model, result, paths.tokenizer)
    write_csv(paths.plots, ("step", "loss", "val_bpb", "grad_norm", "lr"), curve(result, params.pretrain))
    write_json(paths.metrics, metrics)
    result.finish()


if __name__ == "__main__":
    run_stage(main)
