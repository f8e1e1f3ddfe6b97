"""base: the interface of a position encoding; a variant overrides `embed`, `rotate` (with `angles`) or `bias`.

Shapes      B batch, T query tokens, S key tokens, N heads, H d_head, D d_model
"""

from typing import Any

import torch
from torch import Tensor, nn


class Position(nn.Module):
    """Tells the model where a token stands.

    `relative` is a fact of the class: True when only the distance of two tokens matters, so that
    positions need not restart at every document of a packed row.
    """

    relative = False

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


def segment_positions(segments_BT: Tensor) -> Tensor:
    """Positions that restart at 0 at every change of segment, [B, T]."""
    T = segments_BT.shape[1]
    index_T = torch.arange(T, device=segments_BT.device)
    starts = torch.zeros_like(segments_BT, dtype=torch.bool)
    starts[:, 0] = True
    starts[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    first_BT = torch.where(starts, index_T, 0).cummax(dim=1).values
    return index_T - first_BT
