"""reward: a model that scores answers, learned from pairs of a chosen and a rejected one."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from llm.align.reward.fit import RewardParams, fit_reward
from llm.align.reward.model import save_reward_model
from llm.params import load_params
from llm.runtime import output_dir, run_stage, set_up_torch, write_csv, write_json

COLUMNS = ("step", "loss", "accuracy", "val_loss", "val_accuracy", "grad_norm", "lr_frac")


@dataclass(frozen=True, kw_only=True)
class Params:
    seed: int
    reward: RewardParams


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    for flag in ("--sft", "--encoded", "--out", "--metrics", "--plots"):
        cli.add_argument(flag, type=Path, required=True)
    paths = cli.parse_args()
    params = load_params(Params)

    set_up_torch(params.seed)
    model, result, metrics = fit_reward(paths.sft, paths.encoded, params.reward, params.seed)
    with output_dir(paths.out) as folder:
        save_reward_model(folder, model, tokenizer=paths.sft / "tokenizer", extra={})
    write_csv(paths.plots, COLUMNS, ([row.get(name) for name in COLUMNS] for row in result.history))
    write_json(paths.metrics, metrics)
    result.finish()


if __name__ == "__main__":
    run_stage(main)
