"""SwiGLU: a SiLU-gated linear unit between two widths.

Equations   (1) in docs/nn/ffn/swiglu.md
Source      Shazeer 2020, GLU Variants Improve Transformer, arXiv 2002.05202, eq. 6
Cost        6 D F floating-point operations per token forward; 3 D F parameters
Differs     from the paper: nothing; gate and up are one matrix, gate rows first
Shapes      B batch, T tokens, D d_model, F d_ff
"""

from dataclasses import dataclass

from torch import Tensor

from llm.nn.activation import silu_mul
from llm.nn.ffn.base import FFN, FFNOutput, gated_width
from llm.nn.kernels.token import Linear
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_ff: hidden width; null: about 8/3 d_model, which keeps the parameters of a plain 4 d_model MLP."""

    d_ff: int | None = None

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.d_ff < 1:
            raise ValueError(f"d_ff ({self.d_ff}) must be positive")


class SwiGLU(FFN):
    """y = W_down (silu(W_gate x) * W_up x)."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        d_ff = config.d_ff or gated_width(site.d_model)
        self.w_gate_up = Linear(site.d_model, 2 * d_ff)
        self.w_gate_up.weight.parts = (d_ff, d_ff)  # type: ignore[attr-defined]  # for Muon
        self.w_down = Linear(d_ff, site.d_model)

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        return FFNOutput(self.w_down(silu_mul(self.w_gate_up(x_BTD))))  # (1)


build = SwiGLU
