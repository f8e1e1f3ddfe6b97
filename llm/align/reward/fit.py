"""fit: pairs -> a reward model: which pairs a step reads, and how often the held-out ones come out right.

Shapes      P pairs, B = 2P rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm import runtime
from llm.align.pairs import Pair, PairParams, both_rows, micro_groups, read_pairs
from llm.align.reward.model import RewardModel, ScoreBatch, bradley_terry, score_batch
from llm.nn.io import load_model
from llm.nn.objective import Loss
from llm.params import to_dict
from llm.sft.rows import measure_rows, shuffled, spread, standard_error
from llm.tokenizer.base import load_tokenizer
from llm.train import checkpoint
from llm.train.loop import TrainResult, train

STAGE = "reward"
CENTRE_PAIRS = 256  # training pairs whose mean score becomes the zero of the scale


@dataclass(frozen=True, kw_only=True)
class RewardParams(PairParams):
    """centering: weight of the squared sum of a pair's scores. eval_pairs: held-out pairs of the curve."""

    eval_pairs: int
    centering: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_pairs < 1:
            raise ValueError(f"eval_pairs ({self.eval_pairs}) must be positive")
        if self.centering < 0:
            raise ValueError(f"centering ({self.centering}) must not be negative")


class PairSource:
    """Which pairs each step reads: a pure function of (seed, step)."""

    def __init__(self, pairs: Sequence[Pair], params: PairParams, max_len: int, seed: int) -> None:
        self.pairs, self.params, self.max_len, self.seed = pairs, params, max_len, seed

    def micro_batches(self, step: int) -> list[ScoreBatch]:
        """Chosen rows first in every batch."""
        chosen = shuffled(len(self.pairs), per_step=self.params.batch_pairs, step=step, seed=self.seed)
        groups = micro_groups(self.pairs, chosen, self.params.micro_pairs)
        return [score_batch(both_rows([self.pairs[i] for i in group]), self.max_len) for group in groups]


def fit_reward(
    sft: Path, encoded: Path, params: RewardParams, seed: int
) -> tuple[RewardModel, TrainResult, dict[str, Any]]:
    """Train a reward model from the model in `sft` on the encoded preference set `encoded`."""
    tokenizer = load_tokenizer(sft / "tokenizer")
    pairs = read_pairs(encoded / "train", tokenizer, params.max_tokens)
    held_out = read_pairs(encoded / "validation", tokenizer, params.max_tokens)
    torch.manual_seed(runtime.derive_seed(seed, STAGE, "init"))
    model = RewardModel(load_model(sft, device=runtime.device_name()))

    def objective(model: RewardModel, batch: ScoreBatch) -> Loss:
        chosen_P, rejected_P = model(batch).chunk(2)
        loss_P = bradley_terry(chosen_P, rejected_P, centering=params.centering)
        return Loss(loss_P.sum(), batch.count, {"accuracy": float((chosen_P > rejected_P).sum())})

    result = train(
        model,
        objective,
        PairSource(pairs, params, model.decoder.config.max_len, runtime.derive_seed(seed, STAGE, "pairs")),
        params,
        stage=STAGE,
        seed=seed,
        fingerprint=checkpoint.fingerprint([seed, to_dict(params)], sft, encoded),
        evaluate=lambda: watch(model, [held_out[i] for i in spread(len(held_out), params.eval_pairs)]),
        unit="pairs",
    )
    centre(model, pairs[:CENTRE_PAIRS])
    return model, result, {"pairs": len(pairs), "held_out": report(model, held_out)}


def scores(model: RewardModel, pairs: Sequence[Pair], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the chosen and of the rejected answers."""
    device = next(model.parameters()).device

    def measure(rows: Any) -> torch.Tensor:
        batch = score_batch(rows, model.decoder.config.max_len)
        return model(ScoreBatch(batch.tokens_BT.to(device), batch.last_B.to(device)))

    both = measure_rows(model, both_rows(pairs), measure, label=label)
    return both[: len(pairs)], both[len(pairs) :]


@torch.no_grad()
def centre(model: RewardModel, pairs: Sequence[Pair]) -> None:
    """Shift the score so that the chosen answers of `pairs` have mean 0; differences stay as they are."""
    chosen, _ = scores(model, pairs, "centre")
    model.score.bias.sub_(float(chosen.mean()))


def watch(model: RewardModel, pairs: Sequence[Pair]) -> dict[str, float]:
    """Numbers for the learning curve."""
    chosen, rejected = scores(model, pairs, "held-out pairs")
    return {
        "val_loss": float(np.logaddexp(0, rejected - chosen).mean()),
        "val_accuracy": float((chosen > rejected).mean()),
    }


def report(model: RewardModel, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy and its standard error, margin and calibration on held-out pairs, over all and by kind.

    calibration: mean predicted probability that the chosen answer wins; equals the accuracy when the
    scores mean what they say. length_correlation: of score and number of answer tokens.
    """
    chosen, rejected = scores(model, pairs, "held-out pairs")
    kinds = np.array([pair.kind for pair in pairs])
    groups = {"all": np.full(len(pairs), True)} | {
        kind: kinds == kind for kind in sorted(set(kinds.tolist()))
    }
    lengths = np.array([row.mask.sum() for row in both_rows(pairs)], dtype=np.float64)
    out: dict[str, Any] = {}
    for name, members in groups.items():
        margin = chosen[members] - rejected[members]
        right = (np.sign(margin) + 1) / 2
        out[name] = {
            "n": int(members.sum()),
            "accuracy": float(right.mean()),
            "accuracy_se": standard_error(right),
            "margin": float(margin.mean()),
            "margin_se": standard_error(margin),
            "calibration": float((1 / (1 + np.exp(-margin))).mean()),
        }
    values = np.concatenate([chosen, rejected])
    varies = values.std() > 0 and lengths.std() > 0
    out["length_correlation"] = float(np.corrcoef(values, lengths)[0, 1]) if varies else 0.0
    return out
