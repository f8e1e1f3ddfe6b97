"""output_norm: x + norm(f(x)); a sub-layer reads the stream as it is, what it adds is normalised.

Equations   (1) in docs/nn/residual/output_norm.md
Source      OLMo Team 2024, 2 OLMo 2 Furious, arXiv 2501.00656, section 3.3.2
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


class OutputNormBlock(Block):
    """x <- x + norm(mixer(x)); x <- x + norm(ffn(x))."""

    def __init__(self, config: Config, site: Site, *, mixer: Any, ffn: Any) -> None:
        super().__init__(site, mixer=mixer, ffn=ffn)
        self.mixer_norm = self.norm_for(site, "mixer")
        self.ffn_norm = self.norm_for(site, "ffn")

    def join(self, x_BTD: Tensor, sublayer: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        norm = self.mixer_norm if which == "mixer" else self.ffn_norm
        return x_BTD + norm(sublayer(x_BTD))  # (1)


build = OutputNormBlock
