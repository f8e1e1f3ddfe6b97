"""linear: attention whose softmax is replaced by a product of positive features, so that the past fits in one matrix.

Equations   (1)-(5) in docs/nn/mixers/linear.md; comments below carry the same numbers.
Source      Katharopoulos et al. 2020, Transformers are RNNs, arXiv 2006.16236 (feature `elu`); rotation of the
            numerator: Su et al. 2021, arXiv 2104.09864, eq. 19; `identity` with a norm: Qin et al. 2022,
            arXiv 2210.10340, section 4
Cost        train O(T (C + H) H N) time; decode O(H^2 N) per token; state N H (H + 1) numbers, `identity` N H^2
Differs     from the paper: relu features are lifted by 0.01, where the denominator would be 0; rotation by option
Shapes      B batch, T tokens, D d_model, N heads, H d_head, C chunk
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm import registry
from llm.nn.kernels.linear_attention import CHUNK, chunked
from llm.nn.kernels.linear_attention import step as recur
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

Feature = Literal["elu", "relu", "relu2", "identity"]
Read = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
LIFT = 0.01  # least value of a relu feature: a query that all features of all keys miss has no denominator
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config:
    """feature: of queries and keys; `identity` has no denominator, its output is normalised instead.
    rotate: let `position` rotate the features of the numerator. chunk: tokens that are read as one matrix."""

    n_heads: int = 4
    d_head: int | None = None  # default d_model / n_heads
    feature: Feature = "elu"
    rotate: bool = True
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        for name in ("n_heads", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        if self.d_head is not None and self.d_head < 1:
            raise ValueError(f"d_head ({self.d_head}) must be positive")


def feature_map(x: Tensor, kind: Feature) -> Tensor:
    """phi(x) (1); positive for every kind but `identity`."""
    if kind == "elu":
        return F.relu(x) + x.clamp(max=0).exp()  # elu(x) + 1, which as a sum is 0 below -17
    if kind == "identity":
        return x
    return (F.relu(x) if kind == "relu" else F.relu(x).square()) + LIFT


def one_liner(q_BNTK: Tensor, k_BNSK: Tensor, v_BNSV: Tensor) -> Tensor:
    """Linear attention that sees all keys, in one expression; q and k are features (3)."""
    return q_BNTK @ (k_BNSK.mT @ v_BNSV) / (q_BNTK @ k_BNSK.sum(dim=-2, keepdim=True).mT)


class LinearAttention(Mixer[RecurrentState]):
    """Causal linear attention: a state of running sums instead of a cache."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        if config.d_head is None and site.d_model % config.n_heads:
            raise ValueError(
                f"model.mixer: d_model ({site.d_model}) must be a multiple of n_heads ({config.n_heads})"
            )
        self.n_heads, self.d_head = config.n_heads, config.d_head or site.d_model // config.n_heads
        self.feature, self.chunk = config.feature, config.chunk
        self.normalised = config.feature != "identity"
        self.rotates = (self.d_head,) if config.rotate else ()
        width = self.n_heads * self.d_head
        self.w_qkv = nn.Linear(site.d_model, 3 * width, bias=False)
        self.w_qkv.weight.parts = (width, width, width)  # type: ignore[attr-defined]  # for Muon
        self.w_o = nn.Linear(width, site.d_model, bias=False)
        self.o_norm = nn.Identity() if self.normalised else registry.build(site.norm, width)

    def mix(
        self, x_BTD: Tensor, position: Position, angles: Any, read: Read, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y_BTD and the new state; `read` computes (2) over a row or for one token."""
        q, k, v = self.w_qkv(x_BTD).unflatten(2, (3, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4)
        q, k = feature_map(q, self.feature), feature_map(k, self.feature)  # (1)
        turned = (position.rotate(q, angles), position.rotate(k, angles)) if self.rotates else (q, k)
        if not self.normalised:
            o, state = read(*turned, v, None, state)
        else:
            ones = torch.ones_like(v[..., :1])  # (3) the normaliser is a sum of values that are 1
            if self.rotates:  # (5)
                sums, z = (None, None) if state is None else state.split([self.d_head, 1], dim=-1)
                o, sums = read(*turned, v, None, sums)
                total, z = read(q, k, ones, None, z)
                state = torch.cat([sums, z], dim=-1)
            else:
                both, state = read(q, k, torch.cat([v, ones], dim=-1), None, state)
                o, total = both.split([self.d_head, 1], dim=-1)
            o = o / (total + EPS)
        return self.w_o(self.o_norm(o.transpose(1, 2).flatten(2))), state  # (4)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        read = partial(chunked, segments_BT=context.segments_BT, chunk=self.chunk)
        return self.mix(x_BTD, position, context.angles, read, None)[0]

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        columns = self.d_head + 1 if self.normalised else self.d_head
        sums = torch.zeros(batch, self.n_heads, self.d_head, columns, device=device, dtype=wide)
        return RecurrentState({"S": sums}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        read = partial(chunked, real_BT=step.real_BT, chunk=self.chunk)
        y_BTD, state["S"] = self.mix(x_BTD, position, step.angles, read, state["S"])
        state.advance(step)
        return y_BTD

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        y_B1D, state["S"] = self.mix(x_B1D, position, step.angles, recur, state["S"])
        state.advance(step)
        return y_B1D


build = LinearAttention
