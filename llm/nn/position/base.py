"""base: the interface of a position encoding; a variant overrides `embed`, `rotate` (with `angles`) or `bias`.

Shapes      B batch, T query tokens, S key tokens, N heads, H d_head, D d_model
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a position encoding must know of the model. widths: of the vectors the mixers rotate;
    n_heads: rows of a bias; max_len: tokens a row may hold."""

    d_model: int
    max_len: int
    widths: Collection[int] = ()
    n_heads: int = 1


class Position(nn.Module):
    """Tells the model where a token stands. Facts of the class:

    relative  only the distance of two tokens matters, so that positions need not restart at every document
              of a packed row
    way       how it tells: a vector added to the embedding, a rotation of queries and keys, a bias of scores
    """

    relative = False
    way: Literal["none", "embed", "rotate", "bias"] = "none"

    def embed(self, positions: Tensor) -> Tensor | None:
        """Vector added to the token embedding, [..., T, D], or None."""
        return None

    def angles(self, positions: Tensor, dtype: torch.dtype) -> Any:
        """What `rotate` needs for tokens of `dtype` at `positions` ([T] or [B, T]); made once for all layers."""
        return None

    def rotate(self, x_BNTH: Tensor, angles: Any) -> Tensor:
        """Rotated queries or keys."""
        return x_BNTH

    def bias(self, positions: Tensor, positions_S: Tensor) -> Tensor | None:
        """Additive score bias [N, T, S] for positions [T], [B, N, T, S] for [B, T]; or None."""
        return None


def check_places(positions: Tensor, max_len: int) -> None:
    """Raises ValueError where a place is beyond a table of `max_len` rows. On a CPU only: elsewhere looking
    would stop the device, and the look-up itself fails there."""
    if positions.device.type != "cpu" or not positions.numel():
        return
    last = int(positions.max())
    if last >= max_len:
        raise ValueError(
            f"model.position: token at place {last}, places end at {max_len - 1}; raise model.max_len"
        )


def segment_positions(segments_BT: Tensor) -> Tensor:
    """Positions that restart at 0 at every change of segment, [B, T]."""
    T = segments_BT.shape[1]
    index_T = torch.arange(T, device=segments_BT.device)
    starts = torch.zeros_like(segments_BT, dtype=torch.bool)
    starts[:, 0] = True
    starts[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    first_BT = torch.where(starts, index_T, 0).cummax(dim=1).values
    return index_T - first_BT
