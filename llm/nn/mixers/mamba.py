"""mamba: a selective state space: every channel keeps a few numbers that fade at rates of their own.

Equations   (1)-(5) in docs/nn/mixers/mamba.md; comments below carry the same numbers.
Source      Gu & Dao 2023, Mamba, arXiv 2312.00752, section 3 and figure 3; norms of dt, B and C: Lieber et al. 2024,
            Jamba, arXiv 2403.19887, section 2
Cost        train O(T E N); decode O(E N) a token; state E N + 3 E numbers
Differs     from the paper: nothing; the block here has an FFN after it, theirs has not (`ffn: none`)
Shapes      B batch, T tokens, D d_model, E inner width, N d_state, R dt_rank
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm import registry
from llm.nn.activation import silu
from llm.nn.kernels import scan
from llm.nn.kernels.short_conv import ShortConv
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

DT_RANGE = (1e-3, 0.1)  # time steps at first, log-uniform


@dataclass(frozen=True, kw_only=True)
class Config:
    """expand: inner width over d_model; d_state: numbers a channel remembers; dt_rank: width the time step is made
    of, null: d_model / 16; conv: taps of the convolution; inner_norms: normalise what dt, B and C are made of."""

    expand: int = 2
    d_state: int = 16
    dt_rank: int | None = None
    conv: int = 4
    inner_norms: bool = False

    def __post_init__(self) -> None:
        for name in ("expand", "d_state", "dt_rank", "conv"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be positive")


class Mamba(Mixer[RecurrentState]):
    """Selective state space whose channels decay each in its own way."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.inner, self.d_state = config.expand * site.d_model, config.d_state
        self.rank = config.dt_rank or math.ceil(site.d_model / 16)
        E, N = self.inner, self.d_state
        self.w_in = nn.Linear(site.d_model, 2 * E, bias=False)
        self.w_in.weight.parts = (E, E)  # type: ignore[attr-defined]  # for Muon
        self.conv = ShortConv(E, config.conv, bias=True)
        self.w_select = nn.Linear(E, self.rank + 2 * N, bias=False)
        self.w_select.weight.parts = (self.rank, N, N)  # type: ignore[attr-defined]
        widths = (self.rank, N, N)
        self.norms = nn.ModuleList(
            [registry.build(site.norm, width) if config.inner_norms else nn.Identity() for width in widths]
        )
        self.w_dt = nn.Linear(self.rank, E, bias=True)
        self.log_rate = nn.Parameter(torch.zeros(E, N))
        self.skip = nn.Parameter(torch.ones(E))
        for table in (self.log_rate, self.skip):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.w_o = nn.Linear(E, site.d_model, bias=False)

    def finish_init(self) -> None:
        """Rates 1 .. N in every channel, time steps log-uniform."""
        self.log_rate.copy_(
            torch.arange(1, self.d_state + 1).to(self.log_rate).log().expand_as(self.log_rate)
        )
        self.skip.fill_(1)
        self.w_dt.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(dt) for dt in DT_RANGE)
        dt = torch.empty_like(self.w_dt.bias).uniform_(low, high).exp().clamp_min(1e-4)
        self.w_dt.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    def select(self, u_BTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt [B,T,E], B and C [B,T,N] of every token, in float32 or finer (3)."""
        parts = self.w_select(u_BTE).split([self.rank, self.d_state, self.d_state], dim=-1)
        dt, b, c = (norm(x) for norm, x in zip(self.norms, parts, strict=True))
        wide = torch.promote_types(u_BTE.dtype, torch.float32)
        dt_BTE = F.softplus(self.w_dt(dt).to(wide))
        return dt_BTE, b.to(wide), c.to(wide)

    def rates(self, dtype: torch.dtype) -> Tensor:
        """A, below 0, [E, N]."""
        return -self.log_rate.to(dtype).exp()

    def finish(self, y_BTE: Tensor, u_BTE: Tensor, z_BTE: Tensor) -> Tensor:
        """Skip, gate, projection (5)."""
        return self.w_o((y_BTE.to(u_BTE.dtype) + self.skip.to(u_BTE.dtype) * u_BTE) * silu(z_BTE))

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        u, z = self.w_in(x_BTD).chunk(2, dim=-1)  # (1)
        u = silu(self.conv(u, context.segments_BT))  # (2)
        dt, b, c = self.select(u)
        keep = None if context.segments_BT is None else same_as_before(context.segments_BT).to(dt.dtype)
        state = dt.new_zeros(len(dt), self.inner, self.d_state)
        y, _ = scan.selective_scan(u.to(dt.dtype), dt, self.rates(dt.dtype), b, c, state, keep)  # (4)
        return self.finish(y, u, z)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        h = torch.zeros((batch, self.inner, self.d_state), device=device, dtype=wide)
        return RecurrentState(
            {"h": h, "tail": self.conv.empty_tail(batch, device=device, dtype=dtype)}, max_len
        )

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        u, z = self.w_in(x_BTD).chunk(2, dim=-1)
        u, state["tail"] = self.conv.step(u, state["tail"], step.real_BT)
        u = silu(u)
        dt, b, c = self.select(u)
        if step.real_BT is not None:
            dt = dt * step.real_BT[..., None]  # padding takes no time
        rates, wide = self.rates(dt.dtype), u.to(dt.dtype)
        if x_BTD.shape[1] == 1:
            y, state["h"] = scan.step(wide[:, 0], dt[:, 0], rates, b[:, 0], c[:, 0], state["h"])
            y = y[:, None]
        else:
            y, state["h"] = scan.selective_scan(wide, dt, rates, b, c, state["h"])
        state.advance(step)
        return self.finish(y, u, z)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


def same_as_before(segments_BT: Tensor) -> Tensor:
    """False at the first token of every document, [B, T]."""
    return F.pad(segments_BT[:, 1:] == segments_BT[:, :-1], (1, 0), value=True)


build = Mamba
