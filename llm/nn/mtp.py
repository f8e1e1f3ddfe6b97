"""mtp: multi-token prediction: small modules behind the decoder that learn to see further than one token.

Module k (k = 1 .. depth) reads what module k-1 made of the tokens up to i, and the token k places ahead, and
predicts the one after that. Embedding, head and final norm are those of the decoder. Generation leaves the
modules out; a speculative decoder may use them as its draft.

Equations   (1)-(4) in docs/nn/mtp.md; comments below carry the same numbers.
Source      DeepSeek-AI 2024, DeepSeek-V3, arXiv 2412.19437, section 2.2
Cost        one block and a D x 2D matrix for each k: 1 / n_layers more for each
Differs     from the paper: (1) takes the embedding first, as the released weights do; h^0 is taken after the
            final norm
Shapes      B batch, T tokens, D d_model
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.kernels.fused import LinearCrossEntropy
from llm.nn.mixers.base import Context, Site

if TYPE_CHECKING:  # the decoder owns the modules
    from llm.nn.model import Decoder


@dataclass(frozen=True, kw_only=True)
class MTPConfig:
    """depth: how many tokens beyond the next one are predicted, 0 for none; weight: lambda in (4)."""

    depth: int = 0
    weight: float = 0.3

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ValueError(f"depth ({self.depth}) must not be negative")
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight ({self.weight}) must be in (0, 1]")


class MTPModule(nn.Module):
    """h^k from h^(k-1) and the embeddings of the tokens k places ahead."""

    def __init__(self, config: Any, site: Site) -> None:
        super().__init__()
        self.embedding_norm = registry.build(site.norm, site.d_model)
        self.hidden_norm = registry.build(site.norm, site.d_model)
        self.w_in = nn.Linear(2 * site.d_model, site.d_model, bias=False)
        self.block = registry.build(config.residual, site, mixer=config.mixer, ffn=config.ffn)
        self.out_norm = registry.build(site.norm, site.d_model)

    def forward(
        self, h_BTD: Tensor, ahead_BTD: Tensor, position: Any, context: Context
    ) -> tuple[Tensor, Tensor | None]:
        """(h^k [B, T, D] after its norm, auxiliary loss of its FFN or None)."""
        both = torch.cat([self.embedding_norm(ahead_BTD), self.hidden_norm(h_BTD)], dim=-1)
        x_BTD, aux = self.block(self.w_in(both), position, context)  # (1), (2)
        return self.out_norm(x_BTD), aux


def mtp_loss(
    model: "Decoder",
    h_BTD: Tensor,
    targets_BT: Tensor,
    mask_BT: Tensor,
    segments_BT: Tensor | None,
) -> tuple[Tensor, int]:
    """(sum over depths of the mean loss of a depth, weighted (4); number of scored predictions).

    h_BTD: `Decoder.hidden` of the row; targets_BT: the next token of each place; mask_BT: True where it is
    scored. A prediction that would cross into another document is not scored. A depth that scores nothing
    adds nothing.
    """
    total, scored = h_BTD.new_zeros((), dtype=torch.float32), 0
    T, depth = h_BTD.shape[1], len(model.mtp)
    for k, module in enumerate(model.mtp, start=1):
        n = T - k
        if n < 1:
            break
        segments = None if segments_BT is None else segments_BT[:, :n]
        context = replace(model.context(n, segments, h_BTD), losses=[])
        ahead = model.embedding_norm(model.embedding(targets_BT[:, k - 1 : k - 1 + n]))  # token i + k
        h_BTD, aux = module(h_BTD[:, :n], ahead, model.position, context)
        keep = mask_BT[:, k:]
        if segments_BT is not None:
            keep = keep & (segments_BT[:, k:] == segments_BT[:, :n])
        count = int(keep.sum())
        if count:
            nats: Tensor = LinearCrossEntropy.apply(h_BTD[keep], model.head.weight, targets_BT[:, k:][keep])
            total = total + nats / count  # (3)
            scored += count
        for extra in (*context.losses, *([] if aux is None else [aux])):
            total = total + extra
    return total * (model.config.mtp.weight / depth), scored  # (4)
