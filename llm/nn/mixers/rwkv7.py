"""rwkv7: a state that fades by channel, and in which a token replaces what stands at its key, at a rate it chooses.

Equations   (1)-(9) in docs/nn/mixers/rwkv7.md; comments below carry the same numbers.
Source      Peng et al. 2025, RWKV-7, arXiv 2503.14456, section 4 and appendix on initialisation
Cost        train O(T (C H + H^2) N); decode O(N H^2); state D H + D numbers
Differs     from the paper: the share of the token itself is stored, not its complement; w_r, w_k, w_v and w_o are
            filled by `model.init` (the paper's zero start is its `residual_scale: 0`)
Shapes      B batch, T tokens, D d_model, N heads, H d_head (D = N H), R ranks
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.kernels import token_shift
from llm.nn.kernels.dplr import CHUNK, RANGE, chunked
from llm.nn.kernels.dplr import step as one_step
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

STRONGEST = math.exp(-0.5)  # of a log-decay; a channel keeps more than 0.545 of itself at every token
NORM_EPS = 64e-5
SHARES = {
    "r": 0.2,
    "decay": 0.9,
    "k": 0.7,
    "v": 0.7,
    "rate": 0.9,
    "gate": 0.2,
}  # exponents of the first shares
FIRST_VALUES = "rwkv7: values of the first layer"  # key of what it leaves for later ones
Rule = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_head: width of a head. Ranks of the two-step maps from a token to its decays, its rates, its share of the
    first layer's values and its gate (default: about 2.5, 2.5, 1.7 and 5 times sqrt(d_model), in steps of 32).
    chunk: tokens read as one matrix; speed only."""

    d_head: int = 64
    decay_rank: int | None = None
    rate_rank: int | None = None
    value_rank: int | None = None
    gate_rank: int | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        for name in ("d_head", "decay_rank", "rate_rank", "value_rank", "gate_rank", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be positive")
        if self.chunk * STRONGEST > RANGE:
            raise ValueError(f"chunk ({self.chunk}) must be at most {int(RANGE / STRONGEST)}")


class RWKV7(Mixer[RecurrentState]):
    """Time mixing of RWKV-7: decay, removal, write and read, all chosen by the token and the one before it."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        D = site.d_model
        if D % config.d_head:
            raise ValueError(f"model.mixer: d_model ({D}) must be a multiple of d_head ({config.d_head})")
        self.config, self.site, self.n_heads, self.d_head = config, site, D // config.d_head, config.d_head
        self.share_6D = nn.Parameter(torch.ones(len(SHARES), D))
        self.w_r, self.w_k, self.w_v = (nn.Linear(D, D, bias=False) for _ in "rkv")
        self.decay = LowRank(D, config.decay_rank or default_rank(2.5, D), torch.tanh)
        self.rate = LowRank(D, config.rate_rank or default_rank(2.5, D), nn.Identity())
        rank = config.value_rank or default_rank(1.7, D)
        self.value = (
            None if site.first else LowRank(D, rank, nn.Identity())
        )  # the first has nobody to take from
        rank = config.gate_rank or default_rank(5, D)
        self.w_gate_down, self.w_gate_up = nn.Linear(D, rank, bias=False), nn.Linear(rank, D, bias=False)
        shape = (self.n_heads, self.d_head)
        self.removed_NH = nn.Parameter(torch.ones(shape))  # weight of a channel of the key in what is removed
        self.replaced_NH = nn.Parameter(torch.ones(shape))  # how far the rate also scales what is written
        self.bonus_NH = nn.Parameter(torch.zeros(shape))
        self.gain, self.bias = nn.Parameter(torch.ones(D)), nn.Parameter(torch.zeros(D))
        tables = (self.share_6D, self.removed_NH, self.replaced_NH, self.bonus_NH, self.gain, self.bias)
        for table in tables:
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.w_o = nn.Linear(D, D, bias=False)

    def finish_init(self) -> None:
        """The tables of the paper's code: channels differ in what they mix and in how fast they fade."""
        D, layer, layers = self.site.d_model, self.site.layer, self.site.n_layers
        place = torch.arange(D).to(self.gain)
        for share, power in zip(self.share_6D, SHARES.values(), strict=True):
            share.copy_((place / D) ** (power * (1 - layer / layers)))
        slope = place / max(1, D - 1)
        wave = (place % self.d_head) / max(1, self.d_head - 1) * 2 - 1  # -1 .. 1 in every head
        wave = wave * wave.abs()
        depth = layer / max(1, layers - 1)
        self.decay.start(-5.5 + 6 * slope ** (1 + depth**0.3) + 2.5 * wave)
        self.rate.start(-0.19 + 0.3 * wave + 0.4 * (slope - 0.5))
        if self.value is not None:
            self.value.start(0.73 - 0.4 * (slope - 0.5))
        self.w_gate_down.weight.zero_()
        orthogonal(self.w_gate_up.weight)
        self.removed_NH.copy_((0.71 - 0.1 * (slope - 0.5)).view_as(self.removed_NH))
        self.replaced_NH.fill_(1.02)
        self.bonus_NH.fill_(-0.04)
        self.gain.fill_(1)
        self.bias.zero_()

    def split(self, x_BTD: Tensor, previous_BTD: Tensor, shared: dict[str, Tensor]) -> tuple[Rule, Tensor]:
        """What `chunked` takes of every token, [B, N, T, H] each, and the gate [B, T, D]."""
        x_r, x_decay, x_k, x_v, x_rate, x_gate = token_shift.mix(x_BTD, previous_BTD, self.share_6D)  # (1)
        r, k, v = self.heads(self.w_r(x_r)), self.heads(self.w_k(x_k)), self.w_v(x_v)
        if self.value is None:
            shared[FIRST_VALUES] = v
        else:  # alone, without the layers before it, a layer has only its own
            v = v + (shared.get(FIRST_VALUES, v) - v) * torch.sigmoid(self.value(x_v)).to(v.dtype)  # (4)
        decay = -STRONGEST * self.heads(torch.sigmoid(self.decay(x_decay)))  # (2)
        rate = self.heads(torch.sigmoid(self.rate(x_rate)))
        direction = F.normalize(k.to(rate.dtype) * self.removed_NH[:, None], dim=-1)  # (3)
        k = (k * (1 + (rate - 1) * self.replaced_NH[:, None])).to(k.dtype)  # (5)
        gate = self.w_gate_up(torch.sigmoid(self.w_gate_down(x_gate)))
        return (r, k, self.heads(v), -direction, direction * rate, decay), gate

    def heads(self, x_BTD: Tensor) -> Tensor:
        """[B, N, T, H]."""
        return x_BTD.unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)

    def finish(self, o_BNTH: Tensor, rule: Rule, gate_BTD: Tensor) -> Tensor:
        """Norm by head, the bonus of the token itself, gate, projection (7)-(9)."""
        r, k, v = rule[:3]
        normed = F.layer_norm(o_BNTH, (self.d_head,), eps=NORM_EPS).transpose(1, 2).flatten(2)
        own = (r * k * self.bonus_NH[:, None]).sum(-1, keepdim=True) * v
        y_BTD = torch.addcmul(self.bias, normed, self.gain) + own.transpose(1, 2).flatten(2)
        return self.w_o(y_BTD * gate_BTD)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        before = token_shift.previous(x_BTD, context.segments_BT)
        rule, gate = self.split(x_BTD, before, context.shared)
        o, _ = chunked(*rule, segments_BT=context.segments_BT, chunk=self.config.chunk)  # (6)
        return self.finish(o, rule, gate)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        state = torch.zeros(batch, self.n_heads, self.d_head, self.d_head, device=device, dtype=wide)
        last = token_shift.empty(batch, self.site.d_model, device=device, dtype=dtype)
        return RecurrentState({"S": state, "last": last}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        before, state["last"] = token_shift.step(x_BTD, state["last"], step.real_BT)
        rule, gate = self.split(x_BTD, before, step.shared)
        if x_BTD.shape[1] == 1 and step.real_BT is None:
            o, state["S"] = one_step(*rule, state["S"])
        else:
            o, state["S"] = chunked(*rule, state["S"], real_BT=step.real_BT, chunk=self.config.chunk)
        state.advance(step)
        return self.finish(o, rule, gate)

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        return self.prefill(x_B1D, position, state, step)


class LowRank(nn.Module):
    """bias + up f(down x), in float32 or finer: a table that the token changes a little."""

    def __init__(self, width: int, rank: int, inner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.bias_D = nn.Parameter(torch.zeros(width))
        self.bias_D.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay

    def forward(self, x_BTD: Tensor) -> Tensor:
        raw = self.up(self.inner(self.down(x_BTD)))
        wide = torch.promote_types(raw.dtype, torch.float32)
        return raw.to(wide) + self.bias_D.to(wide)

    def start(self, bias_D: Tensor) -> None:
        """At first the table alone, the same for all tokens."""
        self.bias_D.copy_(bias_D)
        self.down.weight.zero_()
        orthogonal(self.up.weight)


def orthogonal(weight_DR: Tensor) -> None:
    """First values of the second of two maps: a tenth of an orthogonal matrix; larger where R > D."""
    D, R = weight_DR.shape
    nn.init.orthogonal_(weight_DR, gain=0.1 * max(1, R / D) ** 0.5)


def default_rank(factor: float, d_model: int) -> int:
    """The paper's rule."""
    return max(32, round(factor * d_model**0.5 / 32) * 32)


build = RWKV7
