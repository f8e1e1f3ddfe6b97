"""pre_norm: x + f(norm(x)); the residual stream itself is never normalised.

Equations   (1) in docs/nn/residual/pre_norm.md
Source      Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv 2002.04745
Cost        two norms a layer and one before the head
Differs     from the paper: nothing
Shapes      B batch, T tokens, D d_model
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llm.nn.mixers.base import Site
from llm.nn.residual.base import Block, Which


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields."""


class PreNormBlock(Block):
    """x <- x + mixer(norm(x)); x <- x + ffn(norm(x))."""

    def __init__(self, config: Config, site: Site, *, mixer: Any, ffn: Any) -> None:
        super().__init__(site, mixer=mixer, ffn=ffn)
        self.mixer_norm = self.norm_for(site, "mixer")
        self.ffn_norm = self.norm_for(site, "ffn")

    def join(self, x_BTD: Tensor, sublayer: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        norm = self.mixer_norm if which == "mixer" else self.ffn_norm
        return x_BTD + sublayer(norm(x_BTD))  # (1)


build = PreNormBlock
