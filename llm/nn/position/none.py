"""none: no position signal; causal attention alone still breaks the symmetry.

Source      Kazemnejad et al. 2023, arXiv 2305.19466
Cost        nothing
"""

from dataclasses import dataclass

from llm.nn.position.base import Position, Shape


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields."""


class NoPosition(Position):
    """Adds nothing anywhere."""

    relative = True

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()


build = NoPosition
