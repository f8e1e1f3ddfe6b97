"""MLP: widen, bend, narrow.

Equations   (1) in docs/nn/ffn/mlp.md
Source      Vaswani et al. 2017, arXiv 1706.03762, section 3.3; with GELU and biases: Radford et al. 2019 (GPT-2)
Cost        4 D F floating-point operations per token forward; 2 D F parameters, and D + F with biases
Differs     from the papers: nothing
Shapes      B batch, T tokens, D d_model, F d_ff
"""

from dataclasses import dataclass

from torch import Tensor, nn

from llm.nn.activation import ACTIVATIONS, ActivationKind
from llm.nn.ffn.base import FFN, FFNOutput
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_ff: hidden width; null: 4 d_model. bias: as in GPT-2; most later models have none."""

    d_ff: int | None = None
    activation: ActivationKind = "gelu_tanh"
    bias: bool = False

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.d_ff < 1:
            raise ValueError(f"d_ff ({self.d_ff}) must be positive")


class MLP(FFN):
    """y = W_down act(W_up x)."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        d_ff = config.d_ff or 4 * site.d_model
        self.activation = ACTIVATIONS[config.activation]
        self.w_up = nn.Linear(site.d_model, d_ff, bias=config.bias)
        self.w_down = nn.Linear(d_ff, site.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        return FFNOutput(self.w_down(self.activation(self.w_up(x_BTD))))  # (1)


build = MLP
