"""performer: softmax attention estimated with random positive features (FAVOR+), in linear time.

Equations   (1)-(6) in docs/nn/mixers/performer.md; comments below carry the same numbers.
Source      Choromanski et al. 2021, Rethinking Attention with Performers, arXiv 2009.14794, sections 2.3-2.4, B.3
Cost        train O(T (C + M) H N) time; decode O(M H N) per token; state N (M (H + 1) + 1) numbers
Differs     from the paper: no constant is added to the exponentials, and keys are divided by a running maximum, so
            that the result does not depend on any stabiliser; the random rotations are uniform
Shapes      B batch, T tokens, D d_model, N heads, H d_head, M n_features
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.kernels.linear_attention import CHUNK, chunked
from llm.nn.kernels.linear_attention import step as recur
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position, segment_positions

Read = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
LIFT = 1e-3  # least value of a relu feature
TINY = 1e-30  # a denominator may be smaller only where all features of a query missed all keys


@dataclass(frozen=True, kw_only=True)
class Config:
    """n_features: random directions, default d_head ln d_head. feature: `softmax` estimates exp(q k / sqrt(H)),
    `relu` does not but is often as good. redraw_every: optimizer steps between new directions, 0 = never."""

    n_heads: int = 4
    d_head: int | None = None  # default d_model / n_heads
    n_features: int | None = None
    feature: Literal["softmax", "relu"] = "softmax"
    redraw_every: int = 0
    rotate: bool = True
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        for name in ("n_heads", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        for name in ("d_head", "n_features"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be positive")
        if self.redraw_every < 0:
            raise ValueError(f"redraw_every ({self.redraw_every}) must not be negative")


def draw_directions(n_features: int, width: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """W [M, H]: rows of random orthogonal matrices, each as long as a Gaussian row would be (3)."""

    def normal() -> Tensor:
        return torch.randn(width, width, generator=generator, dtype=torch.float32, device=like.device)

    def rotation() -> Tensor:
        Q, R = torch.linalg.qr(normal())
        return (Q * R.diagonal().sign()).mT  # uniform: the signs that QR chooses are not random

    blocks = [rotation() for _ in range(-(-n_features // width))]
    lengths = torch.cat([normal().norm(dim=1) for _ in blocks])
    return (torch.cat(blocks) * lengths[:, None])[:n_features].to(like.dtype)


def softmax_logs(x_BNTH: Tensor, directions_MH: Tensor) -> Tensor:
    """Logarithm of the positive features (1), [B, N, T, M] in float32 or finer."""
    wide = torch.promote_types(x_BNTH.dtype, torch.float32)
    x = x_BNTH.to(wide) * x_BNTH.shape[-1] ** -0.25
    return x @ directions_MH.to(wide).mT - x.square().sum(-1, keepdim=True) / 2


def running_max(x_BNT: Tensor, segments_BT: Tensor | None) -> Tensor:
    """Largest value so far, of the document: log T passes over the row."""
    if segments_BT is None:
        return x_BNT.cummax(dim=2).values
    place = segment_positions(segments_BT)[:, None]
    reach = 1
    while reach < x_BNT.shape[2]:
        before = F.pad(x_BNT, (reach, 0), value=float("-inf"))[..., : x_BNT.shape[2]]
        x_BNT = torch.where(place >= reach, torch.maximum(x_BNT, before), x_BNT)
        reach *= 2
    return x_BNT


class Performer(Mixer[RecurrentState]):
    """Linear attention over random features of queries and keys."""

    directions: Tensor
    draws: Tensor

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        if config.d_head is None and site.d_model % config.n_heads:
            raise ValueError(
                f"model.mixer: d_model ({site.d_model}) must be a multiple of n_heads ({config.n_heads})"
            )
        self.config, self.n_heads = config, config.n_heads
        self.d_head = config.d_head or site.d_model // config.n_heads
        self.n_features = config.n_features or max(1, int(self.d_head * math.log(self.d_head)))
        self.rotates = (self.d_head,) if config.rotate else ()
        width = self.n_heads * self.d_head
        self.w_qkv = nn.Linear(site.d_model, 3 * width, bias=False)
        self.w_qkv.weight.parts = (width, width, width)  # type: ignore[attr-defined]  # for Muon
        self.w_o = nn.Linear(width, site.d_model, bias=False)
        self.register_buffer("directions", torch.zeros(self.n_features, self.d_head))
        self.register_buffer("draws", torch.zeros(2, dtype=torch.long))  # optimizer steps seen, seed

    def finish_init(self) -> None:
        """The first directions, and the seed of all later ones."""
        self.draws.zero_()
        self.draws[1:].random_(1 << 31)
        self.directions.copy_(draw_directions(self.n_features, self.d_head, None, self.directions))

    def after_step(self) -> None:
        """Count an optimizer step; every `redraw_every` of them, new directions from (seed, step) alone."""
        self.draws[0] += 1
        steps, seed = self.draws.tolist()
        if self.config.redraw_every and steps % self.config.redraw_every == 0:
            generator = torch.Generator().manual_seed(seed + steps)
            table = torch.empty(0, dtype=self.directions.dtype)
            self.directions = draw_directions(self.n_features, self.d_head, generator, table).to(
                self.directions.device
            )

    def keys(
        self, k_BNTH: Tensor, segments_BT: Tensor | None, real_BT: Tensor | None, top_BN1: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Features of keys, log-decay that rescales older ones, largest logarithm so far.

        A key is divided by e^c, c the running maximum of all logarithms up to it. When c rises, the sums
        are multiplied by e^(c_old - c_new): a decay, as the kernel knows it (4).
        """
        if self.config.feature == "relu":
            return self.relu_features(k_BNTH), None, None
        logs = softmax_logs(k_BNTH, self.directions)
        peaks = logs.detach().amax(-1)
        if real_BT is not None:
            peaks = peaks.masked_fill(~real_BT[:, None], float("-inf"))
        tops = running_max(peaks, segments_BT)
        before = F.pad(tops[..., :-1], (1, 0), value=float("-inf"))
        if top_BN1 is not None:
            tops = torch.maximum(tops, top_BN1)
            before = torch.cat([top_BN1, tops[..., :-1]], dim=-1)
        fresh = before == float("-inf")  # nothing to rescale; at a new document the kernel forgets by itself
        decay = (before - tops).masked_fill(fresh, 0).clamp(max=0)
        features = (logs - tops.masked_fill(tops == float("-inf"), 0)[..., None]).exp()
        return features.to(k_BNTH.dtype), decay, tops[..., -1:]

    def queries(self, q_BNTH: Tensor) -> Tensor:
        """Features of queries, each divided by its own largest one, which cancels (1)."""
        if self.config.feature == "relu":
            return self.relu_features(q_BNTH)
        logs = softmax_logs(q_BNTH, self.directions)
        return (logs - logs.detach().amax(-1, keepdim=True)).exp().to(q_BNTH.dtype)

    def relu_features(self, x_BNTH: Tensor) -> Tensor:
        """relu(W x) + LIFT (6)."""
        wide = torch.promote_types(x_BNTH.dtype, torch.float32)
        projected = x_BNTH.to(wide) @ self.directions.to(wide).mT * x_BNTH.shape[-1] ** -0.25
        return (F.relu(projected) + LIFT).to(x_BNTH.dtype)

    def mix(
        self,
        x_BTD: Tensor,
        position: Position,
        angles: Any,
        read: Read,
        state: RecurrentState | None,
        segments_BT: Tensor | None = None,
        real_BT: Tensor | None = None,
    ) -> Tensor:
        """y_BTD; `state` moves on. `read` computes the sums of (2) over a row or for one token."""
        q, k, v = self.w_qkv(x_BTD).unflatten(2, (3, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4)
        if self.rotates:
            q, k = position.rotate(q, angles), position.rotate(k, angles)
        softmax = state is not None and self.config.feature == "softmax"
        k, decay, top = self.keys(k, segments_BT, real_BT, state["top"] if state and softmax else None)
        ones = torch.ones_like(v[..., :1])
        o, sums = read(self.queries(q), k, torch.cat([v, ones], dim=-1), decay, state["S"] if state else None)
        if state is not None:
            state["S"] = sums
            if top is not None:
                state["top"] = top
        o = o[..., :-1] / o[..., -1:].clamp(min=TINY)  # (5)
        y_BTD: Tensor = self.w_o(o.transpose(1, 2).flatten(2))
        return y_BTD

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        segments_BT, angles = context.segments_BT, context.angles
        if self.rotates and segments_BT is not None:
            # an estimate of exp(q k) is not exactly relative: the positions themselves have to restart
            angles = position.angles(segment_positions(segments_BT), context.dtype)
        read = partial(chunked, segments_BT=segments_BT, chunk=self.config.chunk)
        return self.mix(x_BTD, position, angles, read, None, segments_BT)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch, self.n_heads, self.n_features, self.d_head + 1)
        tensors = {"S": torch.zeros(shape, device=device, dtype=wide)}
        if self.config.feature == "softmax":
            tensors["top"] = torch.full((batch, self.n_heads, 1), float("-inf"), device=device, dtype=wide)
        return RecurrentState(tensors, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        read = partial(chunked, real_BT=step.real_BT, chunk=self.config.chunk)
        y_BTD = self.mix(x_BTD, position, step.angles, read, state, real_BT=step.real_BT)
        state.advance(step)
        return y_BTD

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        y_B1D = self.mix(x_B1D, position, step.angles, recur, state)
        state.advance(step)
        return y_B1D


build = Performer
