"""kda: Kimi Delta Attention, the delta rule on a state whose key channels fade each at its own rate.

Equations   (1)-(3) in docs/nn/mixers/kda.md; comments below carry the same numbers.
Source      Kimi Team 2025, Kimi Linear, arXiv 2510.26692, section 3
Cost        train O(T (C (K + V) + K V + 8 K) N); decode O(K V N); state K V N + (W - 1) (2 G K + N V) numbers
Differs     from the paper: nothing
Shapes      B batch, T tokens, D d_model, N value heads, K d_key, V d_value, R rank of decay and gate
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.mixers._delta import DeltaConfig, DeltaMixer, start_rates
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config(DeltaConfig):
    """rank: inner width of the two-step maps from a token to its decays and to its gate (default d_value)."""

    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank ({self.rank}) must be positive")


class KimiDeltaAttention(DeltaMixer):
    """One decay a key channel, a low-rank sigmoid gate on the output."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site)
        rank = config.rank or self.d_value
        self.w_decay_down = nn.Linear(site.d_model, rank, bias=False)
        self.w_decay_up = nn.Linear(rank, self.n_heads * self.d_key, bias=False)
        self.w_gate_down = nn.Linear(site.d_model, rank, bias=False)
        self.w_gate_up = nn.Linear(rank, self.n_heads * self.d_value, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(self.n_heads * self.d_key))
        self.log_rate = nn.Parameter(torch.zeros(self.n_heads))
        for table in (self.dt_bias, self.log_rate):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay

    def finish_init(self) -> None:
        start_rates(self.dt_bias, self.log_rate)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        raw = self.w_decay_up(self.w_decay_down(x_BTD))
        wide = torch.promote_types(raw.dtype, torch.float32)
        dt = F.softplus(raw.to(wide) + self.dt_bias.to(wide)).unflatten(-1, (self.n_heads, self.d_key))
        return -dt.transpose(1, 2) * self.log_rate.to(wide).exp()[:, None, None]  # (1)

    def finish(self, o_BTNV: Tensor, x_BTD: Tensor) -> Tensor:
        gate = torch.sigmoid(self.w_gate_up(self.w_gate_down(x_BTD))).view_as(o_BTNV)
        return self.o_norm(o_BTNV) * gate  # (3)


build = KimiDeltaAttention
