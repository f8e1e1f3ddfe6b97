"""rwkv4: every channel averages its past, weighted by keys that fade with distance at a fixed rate.

Equations   (1)-(4) in docs/nn/mixers/rwkv4.md; comments below carry the same numbers.
Source      Peng et al. 2023, RWKV, arXiv 2305.13048, section 3 and appendix on initialisation
Cost        train O(T D) beside the matrices, in 2 sqrt(T) steps; decode O(D); state 4 D numbers
Differs     from the paper: nothing
Shapes      B batch, T tokens, D d_model
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.kernels import token_shift, wkv
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Config:
    """No fields."""


class RWKV4(Mixer[RecurrentState]):
    """Time mixing of RWKV-4: a gated average by channel."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        D, self.site = site.d_model, site
        self.share_3D = nn.Parameter(torch.ones(3, D))
        self.w_k, self.w_v, self.w_r = (nn.Linear(D, D, bias=False) for _ in "kvr")
        self.log_rate, self.bonus = nn.Parameter(torch.zeros(D)), nn.Parameter(torch.zeros(D))
        for table in (self.share_3D, self.log_rate, self.bonus):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.w_o = nn.Linear(D, D, bias=False)

    def finish_init(self) -> None:
        """The tables of the paper: channels differ in how fast they fade, layers in how many fade slowly."""
        D, layer, layers = self.site.d_model, self.site.layer, self.site.n_layers
        place, depth = torch.arange(D).to(self.bonus), layer / max(1, layers - 1)
        self.log_rate.copy_(-5 + 8 * (place / max(1, D - 1)) ** (0.7 + 1.3 * depth))
        self.bonus.copy_(math.log(0.3) + 0.5 * ((place + 1) % 3 - 1))
        share, rest = place / D, 1 - layer / layers
        self.share_3D.copy_(torch.stack([share**rest, share**rest + 0.3 * depth, share ** (0.5 * rest)]))

    def split(self, x_BTD: Tensor, previous_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Key, value and receptance [B, T, D]."""
        x_k, x_v, x_r = token_shift.mix(x_BTD, previous_BTD, self.share_3D)  # (1)
        return self.w_k(x_k), self.w_v(x_v), torch.sigmoid(self.w_r(x_r))  # (2)

    def tables(self, state_B3D: Tensor) -> tuple[Tensor, Tensor]:
        """Rates, above 0, and bonus [D] in the dtype of the sums."""
        return self.log_rate.to(state_B3D.dtype).exp(), self.bonus.to(state_B3D.dtype)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        k, v, r = self.split(x_BTD, token_shift.previous(x_BTD, context.segments_BT))
        nothing = wkv.empty(len(x_BTD), self.site.d_model, device=x_BTD.device, dtype=x_BTD.dtype)
        y, _ = wkv.wkv(k, v, *self.tables(nothing), nothing, segments_BT=context.segments_BT)  # (3)
        return self.w_o(r * y)  # (4)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        sums = wkv.empty(batch, self.site.d_model, device=device, dtype=dtype)
        last = token_shift.empty(batch, self.site.d_model, device=device, dtype=dtype)
        return RecurrentState({"sums": sums, "last": last}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        before, state["last"] = token_shift.step(x_BTD, state["last"], step.real_BT)
        k, v, r = self.split(x_BTD, before)
        rate, bonus = self.tables(state["sums"])
        if x_BTD.shape[1] == 1 and step.real_BT is None:
            y, state["sums"] = wkv.step(k, v, rate, bonus, state["sums"])
        else:
            y, state["sums"] = wkv.wkv(k, v, rate, bonus, state["sums"], real_BT=step.real_BT)
        state.advance(step)
        return self.w_o(r * y)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


build = RWKV4
