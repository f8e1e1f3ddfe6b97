"""gated_delta: Gated DeltaNet, the delta rule on a state that fades by one factor a head and token.

Equations   (1)-(3) in docs/nn/mixers/gated_delta.md; comments below carry the same numbers.
Source      Yang, Kautz & Hatamizadeh 2024, Gated Delta Networks, arXiv 2412.06464, equation 10; layer as in
            Qwen3-Next
Cost        train O(T (C (K + V) + K V) N); decode O(K V N); state K V N + (W - 1) (2 G K + N V) numbers
Differs     from Qwen3-Next: nothing; its projections are stored apart from the gates
Shapes      B batch, T tokens, D d_model, N value heads, K d_key, V d_value
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.activation import silu
from llm.nn.mixers._delta import DeltaConfig, DeltaMixer, start_rates
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config(DeltaConfig):
    """All of `DeltaConfig`."""


class GatedDeltaNet(DeltaMixer):
    """One decay a head, one gate a channel of the output."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site)
        self.w_decay = nn.Linear(site.d_model, self.n_heads, bias=False)
        self.w_gate = nn.Linear(site.d_model, self.n_heads * self.d_value, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(self.n_heads))
        self.log_rate = nn.Parameter(torch.zeros(self.n_heads))
        for table in (self.dt_bias, self.log_rate):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay

    def finish_init(self) -> None:
        start_rates(self.dt_bias, self.log_rate)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        raw = self.w_decay(x_BTD)
        wide = torch.promote_types(raw.dtype, torch.float32)
        dt = F.softplus(raw.to(wide) + self.dt_bias.to(wide))
        return (-dt * self.log_rate.to(wide).exp()).transpose(1, 2)[..., None]  # (1)

    def finish(self, o_BTNV: Tensor, x_BTD: Tensor) -> Tensor:
        gate = silu(self.w_gate(x_BTD)).view_as(o_BTNV)
        return self.o_norm(o_BTNV) * gate  # (3)


build = GatedDeltaNet
