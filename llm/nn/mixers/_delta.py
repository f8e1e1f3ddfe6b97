"""_delta: what DeltaNet, Gated DeltaNet and KDA share: projections, convolution, unit keys, state.

    q, k, v = silu(conv(W x));   q <- q / |q| / sqrt(K),   k <- k / |k|;   o from kernels/delta_rule;   y from `finish`

Equations   (1), (2) and (5) of docs/nn/mixers/delta.md; comments below carry the same numbers.
Source      Yang et al. 2024, arXiv 2406.06484, section 3.3; Gated DeltaNet, arXiv 2412.06464; Kimi Linear,
            arXiv 2510.26692
Shapes      B batch, T tokens, D d_model, G key heads, N value heads (N = G R), K d_key, V d_value
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.activation import silu
from llm.nn.kernels.delta_rule import CHUNK, chunked
from llm.nn.kernels.delta_rule import step as one_step
from llm.nn.kernels.short_conv import WIDTH, ShortConv
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

UNIT_EPS = 1e-6  # under the root of the length of a query or key


@dataclass(frozen=True, kw_only=True)
class DeltaConfig:
    """n_heads: of queries and keys; n_value_heads: of values, states and gates, each key head serving as many
    (default n_heads). conv: taps of the convolution, 1 = none but a gain. negative: corrections up to twice the
    error, which lets a state flip signs (counting, parity). chunk: tokens read as one matrix; speed only."""

    n_heads: int = 4
    n_value_heads: int | None = None
    d_key: int | None = None  # default d_model / n_heads
    d_value: int | None = None  # default d_key
    conv: int = WIDTH
    negative: bool = False
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        for name in ("n_heads", "n_value_heads", "d_key", "d_value", "conv", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be positive")
        if self.n_value_heads is not None and self.n_value_heads % self.n_heads:
            raise ValueError(
                f"n_value_heads ({self.n_value_heads}) must be a multiple of n_heads ({self.n_heads})"
            )


class DeltaMixer(Mixer[RecurrentState]):
    """A state per head that is corrected towards k -> v; subclasses say how much, what fades, and the output."""

    def __init__(self, config: DeltaConfig, site: Site) -> None:
        super().__init__()
        if config.d_key is None and site.d_model % config.n_heads:
            raise ValueError(
                f"model.mixer: d_model ({site.d_model}) must be a multiple of n_heads ({config.n_heads})"
            )
        self.config, self.key_heads = config, config.n_heads
        self.n_heads = config.n_value_heads or config.n_heads
        self.d_key = config.d_key or site.d_model // config.n_heads
        self.d_value = config.d_value or self.d_key
        keys, values = self.key_heads * self.d_key, self.n_heads * self.d_value
        self.parts = (keys, keys, values)
        self.w_qkv = nn.Linear(site.d_model, sum(self.parts), bias=False)
        self.w_qkv.weight.parts = self.parts  # type: ignore[attr-defined]  # for Muon
        self.conv = ShortConv(sum(self.parts), config.conv)
        self.w_beta = nn.Linear(site.d_model, self.n_heads, bias=False)
        self.o_norm = registry.build(site.norm, self.d_value)
        self.w_o = nn.Linear(values, site.d_model, bias=False)

    def log_decay(self, x_BTD: Tensor) -> Tensor | None:
        """[B, N, T, 1 or K], at most 0, float32 or finer; None where nothing fades."""
        return None

    @abstractmethod
    def finish(self, o_BTNV: Tensor, x_BTD: Tensor) -> Tensor:
        """Norm, gate -> [B, T, N, V], ready for w_o."""

    def split(self, qkv_BTX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k [B, N, T, K] of unit length (q over sqrt(K)) and v [B, N, T, V], after the convolution (1), (2)."""
        q, k, v = silu(qkv_BTX).split(self.parts, dim=-1)
        wide, repeat = torch.promote_types(v.dtype, torch.float32), self.n_heads // self.key_heads
        q, k = (x.unflatten(-1, (self.key_heads, self.d_key)).transpose(1, 2).to(wide) for x in (q, k))
        q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + UNIT_EPS) for x in (q, k))
        if repeat > 1:
            q, k = (x.repeat_interleave(repeat, dim=1) for x in (q, k))
        return q * self.d_key**-0.5, k, v.unflatten(-1, (self.n_heads, self.d_value)).transpose(1, 2)

    def beta(self, x_BTD: Tensor) -> Tensor:
        """[B, N, T] share of the error that a token corrects, float32 or finer."""
        raw = self.w_beta(x_BTD)
        share = torch.sigmoid(raw.to(torch.promote_types(raw.dtype, torch.float32))).transpose(1, 2)
        return 2 * share if self.config.negative else share

    def project(self, o_BNTV: Tensor, x_BTD: Tensor) -> Tensor:
        return self.w_o(self.finish(o_BNTV.transpose(1, 2), x_BTD).flatten(2))  # (5)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        segments = context.segments_BT
        q, k, v = self.split(self.conv(self.w_qkv(x_BTD), segments))
        beta, decay = self.beta(x_BTD), self.log_decay(x_BTD)
        o, _ = chunked(q, k, v, beta, decay, segments_BT=segments, chunk=self.config.chunk)
        return self.project(o, x_BTD)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        state = torch.zeros(batch, self.n_heads, self.d_key, self.d_value, device=device, dtype=wide)
        tail = self.conv.empty_tail(batch, device=device, dtype=dtype)
        return RecurrentState({"S": state, "tail": tail}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        qkv, state["tail"] = self.conv.step(self.w_qkv(x_BTD), state["tail"], step.real_BT)
        q, k, v = self.split(qkv)
        beta, decay = self.beta(x_BTD), self.log_decay(x_BTD)
        if x_BTD.shape[1] == 1 and step.real_BT is None:
            o, state["S"] = one_step(q, k, v, beta, decay, state["S"])
        else:
            o, state["S"] = chunked(
                q, k, v, beta, decay, state["S"], real_BT=step.real_BT, chunk=self.config.chunk
            )
        state.advance(step)
        return self.project(o, x_BTD)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


DT_RANGE, A_RANGE = (1e-3, 1e-1), (1.0, 16.0)  # first time steps (log-uniform) and decay rates (uniform)


@torch.no_grad()
def start_rates(dt_bias: Tensor, log_rate: Tensor) -> None:
    """Mamba-2's first values of the tables behind a decay -e^(log_rate) softplus(. + dt_bias), in place."""
    low, high = (math.log(dt) for dt in DT_RANGE)
    dt = torch.empty_like(dt_bias).uniform_(low, high).exp().clamp_min(1e-4)
    dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
    log_rate.copy_(torch.empty_like(log_rate).uniform_(*A_RANGE).log())
