"""ReLU2: two matrices with a squared ReLU between them.

Equations   (1) in docs/nn/ffn/relu2.md
Source      So et al. 2021, Primer, arXiv 2109.08668, section 4.1
Cost        4 D F floating-point operations per token forward; 2 D F parameters
Differs     from the paper: nothing
Shapes      B batch, T tokens, D d_model, F d_ff
"""

from dataclasses import dataclass

from torch import Tensor, nn

from llm.nn.activation import relu2
from llm.nn.ffn.base import FFN, FFNOutput
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_ff: hidden width; null: 4 d_model."""

    d_ff: int | None = None

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.d_ff < 1:
            raise ValueError(f"d_ff ({self.d_ff}) must be positive")


class ReLU2(FFN):
    """y = W_down relu(W_up x)^2."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        d_ff = config.d_ff or 4 * site.d_model
        self.w_up = nn.Linear(site.d_model, d_ff, bias=False)
        self.w_down = nn.Linear(d_ff, site.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        return FFNOutput(self.w_down(relu2(self.w_up(x_BTD))))  # (1)


build = ReLU2
