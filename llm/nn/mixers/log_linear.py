"""log_linear: linear attention that keeps the past in log T blocks and lets every token weigh them.

Equations   (1)-(4) in docs/nn/mixers/log_linear.md; comments below carry the same numbers.
Source      Guo et al. 2025, Log-Linear Attention, arXiv 2506.04761, on the backbone of Mamba-2: Dao & Gu 2024,
            arXiv 2405.21060
Cost        train O(T (C + log(T/C) H) H N); decode O(log T H^2 N); state N H^2 bit_length(max_len - 1) numbers
            and the 3 N H (W - 1) of a convolution
Differs     from the authors' layer: no skip around the sum (level 0 is one), every head its own keys
Shapes      B batch, T tokens, D d_model, N heads, H d_head, L levels
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm import registry
from llm.nn.activation import silu
from llm.nn.kernels import log_linear
from llm.nn.kernels.grid import Grid, make_grid
from llm.nn.kernels.short_conv import WIDTH, ShortConv
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

DT_RANGE, A_RANGE = (1e-3, 1e-1), (1.0, 16.0)  # of Mamba-2: first time steps and decay rates


@dataclass(frozen=True, kw_only=True)
class Config:
    """conv: width of the short convolution over queries, keys and values, 1 = none. chunk: tokens that are read
    as one matrix, a power of two; changes the speed, not the result."""

    n_heads: int = 4
    d_head: int | None = None  # default d_model / n_heads
    conv: int = WIDTH
    chunk: int = 64

    def __post_init__(self) -> None:
        for name in ("n_heads", "conv"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        if self.d_head is not None and self.d_head < 1:
            raise ValueError(f"d_head ({self.d_head}) must be positive")
        if self.chunk < 1 or self.chunk & (self.chunk - 1):
            raise ValueError(f"chunk ({self.chunk}) must be a power of two")


class Rates(nn.Module):
    """Time step, decay and the weights of the levels of every token, in float32 or finer."""

    def __init__(self, d_model: int, n_heads: int, n_levels: int) -> None:
        super().__init__()
        self.n_heads, self.n_levels = n_heads, n_levels
        self.w_dt = nn.Linear(d_model, n_heads, bias=False)
        self.w_level = nn.Linear(d_model, n_heads * n_levels, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(n_heads))
        self.log_rate = nn.Parameter(torch.zeros(n_heads))
        self.level_gain = nn.Parameter(torch.ones(n_heads, n_levels))
        for table in (self.dt_bias, self.log_rate, self.level_gain):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay

    def finish_init(self) -> None:
        """First time steps log-uniform in `DT_RANGE`, decay rates uniform in `A_RANGE`."""
        low, high = (math.log(dt) for dt in DT_RANGE)
        dt = torch.empty_like(self.dt_bias).uniform_(low, high).exp()
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
        self.log_rate.copy_(torch.empty_like(self.log_rate).uniform_(*A_RANGE).log())
        self.level_gain.fill_(1)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt_BTN, log-decay a_BTN (2) and lambda_BTNL (3)."""
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        dt_BTN = F.softplus(self.w_dt(x_BTD).to(wide) + self.dt_bias.to(wide))
        levels = self.w_level(x_BTD).to(wide).unflatten(2, (self.n_heads, self.n_levels))
        return dt_BTN, -dt_BTN * self.log_rate.to(wide).exp(), F.softplus(self.level_gain.to(wide) * levels)


class LogLinearAttention(Mixer[RecurrentState]):
    """Gated linear attention over a binary counter of states."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        if config.d_head is None and site.d_model % config.n_heads:
            raise ValueError(
                f"model.mixer: d_model ({site.d_model}) must be a multiple of n_heads ({config.n_heads})"
            )
        self.n_heads, self.d_head = config.n_heads, config.d_head or site.d_model // config.n_heads
        self.chunk, self.max_len = config.chunk, site.max_len
        width = self.n_heads * self.d_head
        self.w_qkv = nn.Linear(site.d_model, 3 * width, bias=False)
        self.w_qkv.weight.parts = (width, width, width)  # type: ignore[attr-defined]  # for Muon
        self.conv = ShortConv(3 * width, config.conv)
        self.rates = Rates(site.d_model, self.n_heads, log_linear.counter_levels(site.max_len) + 1)
        self.w_gate = nn.Linear(site.d_model, width, bias=False)
        self.w_o = nn.Linear(width, site.d_model, bias=False)
        self.o_norm = registry.build(site.norm, width)

    def chunk_of(self, T: int) -> int:
        """No longer than a short row needs."""
        return min(self.chunk, 1 << log_linear.counter_levels(T))

    def project(self, x_BTD: Tensor, qkv_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [B, T, N, H] out of what the convolution gave (1), log-decay [B, T, N], weights [B, T, N, L]."""
        q, k, v = silu(qkv_BTC).unflatten(2, (3, self.n_heads, self.d_head)).unbind(2)
        dt_BTN, decay, weight = self.rates(x_BTD)
        return q, k, v * dt_BTN[..., None].to(v.dtype), decay, weight

    def finish(self, x_BTD: Tensor, o_BTNH: Tensor) -> Tensor:
        """Gate, normalise, project (4)."""
        gated = o_BTNH.flatten(2) * silu(self.w_gate(x_BTD))
        y_BTD: Tensor = self.w_o(self.o_norm(gated))
        return y_BTD

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        T = x_BTD.shape[1]
        grid = make_grid(T, self.chunk_of(T), context.segments_BT, x_BTD.device)
        qkv = self.conv(self.w_qkv(x_BTD), context.segments_BT)
        return self.finish(x_BTD, log_linear.chunked(*self.project(x_BTD, qkv), grid, T))

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        if max_len > self.max_len:
            raise ValueError(
                f"model.mixer: levels for {self.max_len} tokens, asked for {max_len}; raise model.max_len"
            )
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch, log_linear.counter_levels(max_len), self.n_heads, self.d_head, self.d_head)
        tail = self.conv.empty_tail(batch, device=device, dtype=dtype)
        return RecurrentState({"S": torch.zeros(shape, device=device, dtype=wide), "tail": tail}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        qkv, state["tail"] = self.conv.step(self.w_qkv(x_BTD), state["tail"], step.real_BT)
        q, k, v, decay, weight = self.project(x_BTD, qkv)
        if step.real_BT is not None:
            padding = ~step.real_BT[..., None]
            k, v = (x.masked_fill(padding[..., None], 0) for x in (k, v))
            decay = decay.masked_fill(padding, 0)
        grid = Grid(step.positions_BT, self.chunk_of(x_BTD.shape[1]))
        o = log_linear.chunked(q, k, v, decay, weight, grid, step.longest)
        if state.longest > 0:
            o = o + log_linear.resume(q, decay, weight, state["S"], step.positions_BT).to(o.dtype)
        state["S"] = log_linear.count(k, v, decay, state["S"], step.positions_BT, step.ends_B)
        state.advance(step)
        return self.finish(x_BTD, o)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        qkv, state["tail"] = self.conv.step(self.w_qkv(x_B1D), state["tail"])
        q, k, v, decay, weight = (x.squeeze(1) for x in self.project(x_B1D, qkv))
        o_BNH, state["S"] = log_linear.step(q, k, v, decay, weight, state["S"], state.lengths_B)
        state.advance(step)
        return self.finish(x_B1D, o_BNH[:, None])


build = LogLinearAttention
