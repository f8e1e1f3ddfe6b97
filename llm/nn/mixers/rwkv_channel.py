"""rwkv_channel: the feed-forward half of an RWKV layer; a mixer, because it also looks at the token before.

Equations   (1)-(3) in docs/nn/mixers/rwkv_channel.md; comments below carry the same numbers.
Source      Peng et al. 2023, RWKV, arXiv 2305.13048, section 3 (with the gate); Peng et al. 2025, RWKV-7,
            arXiv 2503.14456, section 4 (without)
Cost        train O(T D F); decode O(D F); state D numbers
Differs     from the papers: the share of the token itself is stored, as in RWKV-4 and not as in RWKV-7; w_down is
            filled by `model.init` (the zero start of RWKV-7 is its `residual_scale: 0`)
Shapes      B batch, T tokens, D d_model, F d_ff
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.activation import relu2
from llm.nn.kernels import token_shift
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_ff: hidden width; null: 4 d_model. gate: a sigmoid of the token lets each channel through (RWKV-4 to 6)."""

    d_ff: int | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        if self.d_ff is not None and self.d_ff < 1:
            raise ValueError(f"d_ff ({self.d_ff}) must be positive")


class ChannelMix(Mixer[RecurrentState]):
    """A squared ReLU layer on a mixture of a token and the one before it."""

    sees_all = False

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        D, F, self.site = site.d_model, config.d_ff or 4 * site.d_model, site
        self.shares = nn.Parameter(torch.ones(2 if config.gate else 1, D))
        self.shares.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.w_up, self.w_down = nn.Linear(D, F, bias=False), nn.Linear(F, D, bias=False)
        self.w_gate = nn.Linear(D, D, bias=False) if config.gate else None

    def finish_init(self) -> None:
        """Early layers take more of the token before in their first channels; RWKV-7 soon takes the token alone."""
        rest = 1 - self.site.layer / self.site.n_layers
        place = torch.arange(self.site.d_model).to(self.shares) / self.site.d_model
        self.shares.copy_((place ** (rest**4 if self.w_gate is None else rest)).expand_as(self.shares))

    def transform(self, x_BTD: Tensor, previous_BTD: Tensor) -> Tensor:
        x_up, *x_gate = token_shift.mix(x_BTD, previous_BTD, self.shares)  # (1)
        y_BTD: Tensor = self.w_down(relu2(self.w_up(x_up)))  # (2)
        return y_BTD if self.w_gate is None else y_BTD * torch.sigmoid(self.w_gate(*x_gate))  # (3)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        return self.transform(x_BTD, token_shift.previous(x_BTD, context.segments_BT))

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        last = token_shift.empty(batch, self.site.d_model, device=device, dtype=dtype)
        return RecurrentState({"last": last}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        before, state["last"] = token_shift.step(x_BTD, state["last"], step.real_BT)
        state.advance(step)
        return self.transform(x_BTD, before)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


build = ChannelMix
