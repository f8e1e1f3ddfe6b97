"""sandwich: x + norm2(f(norm1(x))); what a sub-layer reads and what it adds are both normalised.

Equations   (1) in docs/nn/residual/sandwich.md
Source      Ding et al. 2021, CogView, arXiv 2105.13290, section 2.4; Gemma 2: arXiv 2408.00118, section 2
Cost        four norms a layer and one before the head
Differs     from the papers: nothing
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


class SandwichBlock(Block):
    """x <- x + norm(mixer(norm(x))); x <- x + norm(ffn(norm(x))), four norms of their own."""

    def __init__(self, config: Config, site: Site, *, mixer: Any, ffn: Any) -> None:
        super().__init__(site, mixer=mixer, ffn=ffn)
        self.mixer_norm = self.norm_for(site, "mixer")
        self.ffn_norm = self.norm_for(site, "ffn")
        self.mixer_out_norm = self.norm_for(site, "mixer")
        self.ffn_out_norm = self.norm_for(site, "ffn")

    def join(self, x_BTD: Tensor, sublayer: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        if which == "mixer":
            return x_BTD + self.mixer_out_norm(sublayer(self.mixer_norm(x_BTD)))  # (1)
        return x_BTD + self.ffn_out_norm(sublayer(self.ffn_norm(x_BTD)))  # (1)


build = SandwichBlock
