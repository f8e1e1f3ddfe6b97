"""scoring: log-probabilities of the last tokens of many rows, teacher-forced, in few forward passes.

What every likelihood metric needs: bits per byte (a window's new tokens), choice (a reply), cloze (a word).
Rows of like length share a batch; padding stands on the right, where no token of the row looks; only scored
positions go through the head.

Shapes      B rows, T tokens, M scored tokens of a batch, V vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.model import Decoder
from llm.runtime import progress

_HEAD_CHUNK = 256  # scored positions per head product: their logits stay in the cache, 256 x V numbers


@dataclass(frozen=True)
class Row:
    """Token ids, of which the last `n_scored` are targets; at least one token must stand before them."""

    ids: Sequence[int]
    n_scored: int

    def __post_init__(self) -> None:
        if not 0 < self.n_scored < len(self.ids):
            raise ValueError(f"scoring: {self.n_scored} of {len(self.ids)} tokens cannot be scored")


@dataclass(frozen=True)
class Scores:
    """logps: of each target, float64, in nats. first: is the target the model's first choice?"""

    logps: Tensor
    first: Tensor


def score_rows(
    model: Decoder, rows: Sequence[Row], *, batch_tokens: int, label: str | None = None
) -> list[Scores]:
    """Scores of every row, in the order given. A batch holds at most `batch_tokens` inputs, padding included."""
    results: dict[int, Scores] = {}
    was_training = model.training
    model.eval()
    try:
        batches = batches_by_length([len(row.ids) - 1 for row in rows], batch_tokens)
        for batch in progress(batches, label) if label else batches:
            results.update(zip(batch, _score([rows[i] for i in batch], model), strict=True))
    finally:
        model.train(was_training)
    return [results[i] for i in range(len(rows))]


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices, longest first, in batches whose longest length times their count is at most `batch_tokens`."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # stable: ties keep their order
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


@torch.no_grad()
def _score(rows: Sequence[Row], model: Decoder) -> list[Scores]:
    device = model.embedding.weight.device
    width = max(len(row.ids) for row in rows)
    tokens_BT = torch.zeros(len(rows), width, dtype=torch.long)
    scored_BT = torch.zeros(len(rows), width - 1, dtype=torch.bool)
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row.ids)] = torch.as_tensor(row.ids)
        scored_BT[b, len(row.ids) - 1 - row.n_scored : len(row.ids) - 1] = True
    tokens_BT, scored_BT = tokens_BT.to(device), scored_BT.to(device)
    h_MD = model.hidden(tokens_BT[:, :-1])[0][scored_BT]
    targets_M = tokens_BT[:, 1:][scored_BT]
    parts = [
        _compare(model.head(h).float(), t)
        for h, t in zip(h_MD.split(_HEAD_CHUNK), targets_M.split(_HEAD_CHUNK), strict=True)
    ]
    counts = [row.n_scored for row in rows]
    logps, first = (torch.cat(column).cpu().split(counts) for column in zip(*parts, strict=True))
    return [Scores(a, b) for a, b in zip(logps, first, strict=True)]


def _compare(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    chosen_M = logits_MV.gather(1, targets_M[:, None])[:, 0]
    logps_M = -F.cross_entropy(logits_MV, targets_M, reduction="none")
    return logps_M.double(), chosen_M == logits_MV.amax(1)
