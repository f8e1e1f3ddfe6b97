"""none: no feed-forward layer.

Source      Gu & Dao 2023, Mamba, arXiv 2312.00752, section 3.4: its block does the work of both layers
Cost        nothing; the block leaves the layer out, norm included
Differs     nothing
Shapes      B batch, T tokens, D d_model
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llm.nn.ffn.base import FFN, FFNOutput
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields."""


class NoFFN(FFN):
    """y = 0."""

    absent = True

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        return FFNOutput(torch.zeros_like(x_BTD))


build = NoFFN
