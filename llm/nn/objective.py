"""objective: next-token cross-entropy, and the shape every objective has.

Equations   (1) in docs/nn/objective.md
Shapes      B batch, T tokens, M scored tokens, D d_model, V vocabulary
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.fused import LinearCrossEntropy
from llm.nn.model import Decoder
from llm.nn.mtp import mtp_loss


@dataclass
class Loss:
    """sum: differentiable scalar, in nats; count: what it is to be divided by; parts: detached numbers to log.

    The training loop divides by the count of the whole step, over all micro-batches, so that
    accumulation equals a big batch.
    """

    sum: Tensor
    count: int
    parts: dict[str, float] = field(default_factory=dict)


Objective = Callable[[Any, Any], Loss]


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens. tokens_BT and targets_BT are int64; mask_BT is True where the target is scored;
    segments_BT numbers the documents of a row from 1, 0 = padding (None: one document a row)."""

    tokens_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    segments_BT: Tensor | None = None

    @property
    def count(self) -> int:
        return int(self.mask_BT.sum())


def next_token_loss(model: Decoder, batch: TokenBatch) -> Loss:
    """Sum of -log p(target) over scored tokens (1), plus auxiliary losses weighted by the count:
    those of FFNs and mixers, and that of multi-token prediction (mtp.py)."""
    h_BTD, aux = model.hidden(batch.tokens_BT, batch.segments_BT)
    h_MD, targets_M = scored(h_BTD, batch.mask_BT), batch.targets_BT[batch.mask_BT]
    total: Tensor = LinearCrossEntropy.apply(h_MD, model.head.weight, targets_M)
    parts = {"loss_sum": float(total.detach())}
    if aux is not None:
        total = total + aux * len(targets_M)
    if model.mtp:
        further, _ = mtp_loss(model, h_BTD, batch.targets_BT, batch.mask_BT, batch.segments_BT)
        total = total + further * len(targets_M)
        parts["mtp_loss_sum"] = float(further.detach()) * len(targets_M)
    return Loss(total, len(targets_M), parts)


def scored(h_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The hidden states whose targets are scored, [M, D]; only these reach the head."""
    flat_ND = h_BTD.flatten(0, 1)
    return flat_ND if bool(mask_BT.all()) else flat_ND.index_select(0, mask_BT.flatten().nonzero().squeeze(1))


def token_logps(model: Decoder, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
    """log p(tokens[t+1] | tokens[..t]) in float32, [B, T-1]: the shift by one, done here and nowhere else."""
    h_BTD, _ = model.hidden(tokens_BT[:, :-1], None if segments_BT is None else segments_BT[:, :-1])
    logits_BTV = model.head(h_BTD).float()
    return torch.log_softmax(logits_BTV, dim=-1).gather(-1, tokens_BT[:, 1:, None]).squeeze(-1)
