"""learned: one trained vector for every place of a row, added to the token embedding.

Equations   (1) in docs/nn/position/learned.md
Source      Gehring et al. 2017, arXiv 1705.03122, section 3.1; Radford et al. 2018 (GPT)
Cost        O(T D); max_len D parameters, no state
Differs     from GPT-2: the standard deviation of the first values is that of the other weights, 0.02, not 0.01
Shapes      T tokens, D d_model
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.position.base import Position, Shape, check_places


@dataclass(frozen=True, kw_only=True)
class Config:
    """std: standard deviation of the first values of the table."""

    std: float = 0.02

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std ({self.std}) must not be negative")


class LearnedPosition(Position):
    """A table with max_len rows. It ends there: no place beyond it has ever been trained."""

    way = "embed"

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        self.std, self.max_len = config.std, shape.max_len
        self.table_SD = nn.Parameter(torch.zeros(shape.max_len, shape.d_model))
        self.table_SD.elementwise = True  # type: ignore[attr-defined]  # a table: no decay

    def finish_init(self) -> None:
        """N(0, std), whatever the init of the model does to matrices."""
        nn.init.normal_(self.table_SD, std=self.std)

    def embed(self, positions: Tensor) -> Tensor:
        check_places(positions, self.max_len)
        return self.table_SD[positions]  # (1)


build = LearnedPosition
