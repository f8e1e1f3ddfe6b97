"""scaled: alpha n + beta f(n) with n = norm(x); what is normalised is what is carried on.

Equations   (1)-(2) in docs/nn/residual/scaled.md; comments below carry the same numbers.
Source      MiniMax 2025, MiniMax-01, arXiv 2501.08313, section 2.2 (PostNorm with DeepNorm); alpha: Wang et al.
            2022, DeepNet, arXiv 2203.00555, table 1 (decoder)
Cost        two norms a layer and one before the head
Differs     from the papers: one alpha and one beta for both sub-layers of every layer
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
    """alpha: weight of the normalised stream; null: (2 n_layers)^(1/4) (2). beta: weight of the sub-layer."""

    alpha: float | None = None
    beta: float = 1.0


class ScaledBlock(Block):
    """x <- alpha norm(x) + beta mixer(norm(x)); the same with the FFN."""

    def __init__(self, config: Config, site: Site, *, mixer: Any, ffn: Any) -> None:
        super().__init__(site, mixer=mixer, ffn=ffn)
        self.mixer_norm = self.norm_for(site, "mixer")
        self.ffn_norm = self.norm_for(site, "ffn")
        self.alpha = (2 * site.n_layers) ** 0.25 if config.alpha is None else config.alpha  # (2)
        self.beta = config.beta

    def join(self, x_BTD: Tensor, sublayer: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        n_BTD: Tensor = (self.mixer_norm if which == "mixer" else self.ffn_norm)(x_BTD)
        return self.alpha * n_BTD + self.beta * sublayer(n_BTD)  # (1)


build = ScaledBlock
