"""_cache: a decoding state that keeps one row of numbers for every token, in tables with names.

Idea        docs/nn/mixers/_cache.md: what latent and sparse attention remember is no pair of keys and values
Cost        the sum of the widths numbers per token and layer, room for all tokens taken at once
Shapes      B batch, T new tokens, S cached tokens, W width of a table
"""

import torch
from torch import Tensor

from llm.nn.kernels.attention import cache_dtype
from llm.nn.mixers.base import State, Step


class CacheState(State):
    """Tables [B, room, W], each token's row at the index of its position.

    Rows beyond a row's length are stale or zero: readers mask by position. A mark costs nothing, because
    forgetting is counting back.
    """

    def __init__(
        self, widths: dict[str, int], batch: int, room: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        kept = cache_dtype(device, dtype)
        self.tables = {
            name: torch.zeros(batch, room, W, device=device, dtype=kept) for name, W in widths.items()
        }
        self.room = room
        self.lengths_B = torch.zeros(batch, dtype=torch.long, device=device)

    def append(self, step: Step, **rows_BTW: Tensor) -> None:
        """Write one row for every new token into every table, at the places of the step."""
        for name, rows in rows_BTW.items():
            table = self.tables[name]
            table.scatter_(1, step.positions_BT[:, :, None].expand_as(rows), rows.to(table.dtype))
        self.advance(step)

    def seen(self, name: str) -> Tensor:
        """The rows of one table up to the end of the longest row, [B, S, W]."""
        return self.tables[name][:, : self.longest]

    def checkpoint(self) -> tuple[Tensor, int]:
        return self.lengths_B, self.longest

    def rollback(self, mark: tuple[Tensor, int]) -> None:
        self.lengths_B, self.longest = mark

    @property
    def nbytes(self) -> int:
        return sum(table.nbytes for table in self.tables.values())
