"""post_norm: norm(x + f(x)); the residual stream is normalised after every sub-layer.

Equations   (1) in docs/nn/residual/post_norm.md
Source      Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762, section 5.4; why it needs warm-up:
            Xiong et al. 2020, arXiv 2002.04745
Cost        two norms a layer and none before the head
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


class PostNormBlock(Block):
    """x <- norm(x + mixer(x)); x <- norm(x + ffn(x))."""

    final_norm = False

    def __init__(self, config: Config, site: Site, *, mixer: Any, ffn: Any) -> None:
        super().__init__(site, mixer=mixer, ffn=ffn)
        self.mixer_norm = self.norm_for(site, "mixer")
        self.ffn_norm = self.norm_for(site, "ffn")

    def join(self, x_BTD: Tensor, sublayer: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        norm = self.mixer_norm if which == "mixer" else self.ffn_norm
        return norm(x_BTD + sublayer(x_BTD))  # (1)


build = PostNormBlock
