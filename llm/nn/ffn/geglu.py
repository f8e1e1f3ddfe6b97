"""GeGLU: a GELU-gated linear unit between two widths.

Equations   (1) in docs/nn/ffn/geglu.md
Source      Shazeer 2020, GLU Variants Improve Transformer, arXiv 2002.05202, eq. 6
Cost        6 D F floating-point operations per token forward; 3 D F parameters
Differs     from the paper: `tanh`, the default, is Gemma's GELU; `erf` is the paper's
Shapes      B batch, T tokens, D d_model, F d_ff
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from llm.nn.activation import gelu, gelu_tanh
from llm.nn.ffn.base import FFN, FFNOutput, gated_width
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_ff: hidden width; null: about 8/3 d_model, the parameters of a plain 4 d_model MLP. gelu: which form."""

    d_ff: int | None = None
    gelu: Literal["erf", "tanh"] = "tanh"

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.d_ff < 1:
            raise ValueError(f"d_ff ({self.d_ff}) must be positive")


class GeGLU(FFN):
    """y = W_down (gelu(W_gate x) * W_up x)."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        d_ff = config.d_ff or gated_width(site.d_model)
        self.gelu = gelu_tanh if config.gelu == "tanh" else gelu
        self.w_gate_up = nn.Linear(site.d_model, 2 * d_ff, bias=False)
        self.w_gate_up.weight.parts = (d_ff, d_ff)  # type: ignore[attr-defined]  # for Muon
        self.w_down = nn.Linear(d_ff, site.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        gate, up = self.w_gate_up(x_BTD).chunk(2, dim=-1)
        return FFNOutput(self.w_down(self.gelu(gate) * up))  # (1)


build = GeGLU
