"""mamba2: a state space with one decay a head and token, read as decayed linear attention (SSD).

Equations   (1)-(6) in docs/nn/mixers/mamba2.md; comments below carry the same numbers.
Source      Dao & Gu 2024, Transformers are SSMs, arXiv 2405.21060, sections 6 and 7
Cost        train O(T (C (N + P) + N P) H); decode O(H N P); state H N P + 3 (E + 2 G N) numbers
Differs     from the paper: nothing; the block here has an FFN after it, theirs has not (`ffn: none`)
Shapes      B batch, T tokens, D d_model, E = H P inner width, H heads, P d_head, N d_state, G n_groups
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.activation import silu
from llm.nn.kernels.linear_attention import chunked
from llm.nn.kernels.linear_attention import step as one_step
from llm.nn.kernels.short_conv import ShortConv
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

DT_RANGE = (1e-3, 0.1)  # time steps at first, log-uniform
A_RANGE = (1.0, 16.0)  # decay rates at first, uniform


@dataclass(frozen=True, kw_only=True)
class Config:
    """expand: inner width over d_model; d_state: numbers a channel remembers; n_groups: pairs of B and C, each
    shared by n_heads / n_groups heads; conv: taps of the convolution; chunk: tokens read as one matrix product.
    norm_eps: of the norm of the output."""

    expand: int = 2
    d_head: int = 64
    d_state: int = 64
    n_groups: int = 1
    conv: int = 4
    chunk: int = 64
    norm_eps: float = 1.0e-5

    def __post_init__(self) -> None:
        for name in ("expand", "d_head", "d_state", "n_groups", "conv", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


class Mamba2(Mixer[RecurrentState]):
    """Selective state space whose heads decay as a whole."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        E = config.expand * site.d_model
        if E % config.d_head:
            raise ValueError(
                f"model.mixer: expand * d_model ({E}) must be a multiple of d_head ({config.d_head})"
            )
        self.config, self.inner, self.heads = config, E, E // config.d_head
        if self.heads % config.n_groups:
            raise ValueError(
                f"model.mixer: {self.heads} heads must be a multiple of n_groups ({config.n_groups})"
            )
        GN = config.n_groups * config.d_state
        self.parts = (E, E + 2 * GN, self.heads)
        self.w_in = nn.Linear(site.d_model, sum(self.parts), bias=False)
        self.w_in.weight.parts = (E, E, GN, GN, self.heads)  # type: ignore[attr-defined]  # for Muon: B and C apart
        self.conv = ShortConv(E + 2 * GN, config.conv, bias=True)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.log_rate = nn.Parameter(torch.zeros(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.gain = nn.Parameter(torch.ones(E))
        for table in (self.dt_bias, self.log_rate, self.skip, self.gain):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.w_o = nn.Linear(E, site.d_model, bias=False)

    def finish_init(self) -> None:
        """Time steps and decay rates as in the paper's code; the rest starts at one."""
        low, high = (math.log(dt) for dt in DT_RANGE)
        dt = torch.empty_like(self.dt_bias).uniform_(low, high).exp().clamp_min(1e-4)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
        self.log_rate.copy_(torch.empty_like(self.log_rate).uniform_(*A_RANGE).log())
        self.skip.fill_(1)
        self.gain.fill_(1)

    def split(self, xBC_BTX: Tensor, dt_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """X [B,H,T,P], B and C [B,G,T,N], steps and log-decays [B,H,T], after the convolution (2)."""
        GN, config = self.config.n_groups * self.config.d_state, self.config
        x, b, c = silu(xBC_BTX).split([self.inner, GN, GN], dim=-1)
        x_BHTP = x.unflatten(-1, (self.heads, config.d_head)).transpose(1, 2)
        b_BGTN, c_BGTN = (y.unflatten(-1, (config.n_groups, config.d_state)).transpose(1, 2) for y in (b, c))
        wide = torch.promote_types(x.dtype, torch.float32)
        dt_BHT = F.softplus(dt_BTH.to(wide) + self.dt_bias.to(wide)).transpose(1, 2)  # (3)
        return x_BHTP, b_BGTN, c_BGTN, dt_BHT, -dt_BHT * self.log_rate.to(wide).exp()[:, None]

    def finish(self, y_BHTP: Tensor, x_BHTP: Tensor, z_BTE: Tensor) -> Tensor:
        """Skip, gate, norm over each group, projection (5), (6)."""
        y = y_BHTP + self.skip.to(y_BHTP.dtype)[:, None, None] * x_BHTP
        gated = y.transpose(1, 2).flatten(2) * silu(z_BTE)
        wide = gated.to(torch.promote_types(gated.dtype, torch.float32)).unflatten(
            -1, (self.config.n_groups, -1)
        )
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config.norm_eps)
        return self.w_o(normed.flatten(-2).to(gated.dtype) * self.gain.to(gated.dtype))

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        z, xBC, dt = self.w_in(x_BTD).split(self.parts, dim=-1)  # (1)
        segments = context.segments_BT
        x, b, c, dt, decay = self.split(self.conv(xBC, segments), dt)
        fed = x * dt[..., None].to(x.dtype)
        y, _ = chunked(c, b, fed, decay, segments_BT=segments, chunk=self.config.chunk)  # (4)
        return self.finish(y, x, z)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch, self.heads, self.config.d_state, self.config.d_head)
        tail = self.conv.empty_tail(batch, device=device, dtype=dtype)
        return RecurrentState({"S": torch.zeros(shape, device=device, dtype=wide), "tail": tail}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        z, xBC, dt = self.w_in(x_BTD).split(self.parts, dim=-1)
        xBC, state["tail"] = self.conv.step(xBC, state["tail"], step.real_BT)
        x, b, c, dt, decay = self.split(xBC, dt)
        fed = x * dt[..., None].to(x.dtype)
        if x_BTD.shape[1] == 1 and step.real_BT is None:
            y, state["S"] = one_step(c, b, fed, decay, state["S"])
        else:
            y, state["S"] = chunked(
                c, b, fed, decay, state["S"], real_BT=step.real_BT, chunk=self.config.chunk
            )
        state.advance(step)
        return self.finish(y, x, z)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


build = Mamba2
