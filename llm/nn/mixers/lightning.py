"""lightning: linear attention with a fixed decay per head, a norm instead of a denominator, and an output gate.

Equations   (1)-(4) in docs/nn/mixers/lightning.md; comments below carry the same numbers.
Source      Qin et al. 2024, Lightning Attention-2, arXiv 2401.04658 (tiles); MiniMax-01, arXiv 2501.08313,
            section 2.2 (layer and slopes)
Cost        train O(T (C + H) H N) time; decode O(H^2 N) per token; state N H^2 numbers
Differs     from MiniMax-01: nothing in the layer; its blocks join layers otherwise (scaled post-norm)
Shapes      B batch, T tokens, D d_model, N heads, H d_head, C chunk
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.activation import silu
from llm.nn.kernels.linear_attention import CHUNK, chunked
from llm.nn.kernels.linear_attention import step as recur
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

Read = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """chunk: tokens that are read as one matrix; changes the speed, not the result. norm_eps: of the norm of the
    output; null: that of `model.norm` (MiniMax-01 has 1e-6 here and 1e-5 elsewhere)."""

    n_heads: int = 4
    d_head: int | None = None  # default d_model / n_heads
    chunk: int = CHUNK
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_heads", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        if self.d_head is not None and self.d_head < 1:
            raise ValueError(f"d_head ({self.d_head}) must be positive")


def decay_slopes(n_heads: int, layer: int, n_layers: int) -> list[float]:
    """m_h (2): the first head forgets fastest, the first layer faster than the last, which hardly forgets."""
    depth = 1 - layer / (n_layers - 1 + 1e-5) + 1e-5
    return [2.0 ** (-8 * (head + 1) / n_heads) * depth for head in range(n_heads)]


class LightningAttention(Mixer[RecurrentState]):
    """Decayed sums of keys times values, normalised over all heads and gated."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        if config.d_head is None and site.d_model % config.n_heads:
            raise ValueError(
                f"model.mixer: d_model ({site.d_model}) must be a multiple of n_heads ({config.n_heads})"
            )
        self.n_heads, self.d_head = config.n_heads, config.d_head or site.d_model // config.n_heads
        self.chunk = config.chunk
        self.slopes = decay_slopes(config.n_heads, site.layer, site.n_layers)
        width = self.n_heads * self.d_head
        self.w_qkv = nn.Linear(site.d_model, 3 * width, bias=False)  # q, k, v of head 0, then of head 1, …
        self.w_qkv.weight.parts = (self.d_head,) * 3 * self.n_heads  # type: ignore[attr-defined]  # for Muon
        self.w_gate = nn.Linear(site.d_model, width, bias=False)
        self.w_o = nn.Linear(width, site.d_model, bias=False)
        norm = site.norm if config.norm_eps is None else replace(site.norm, eps=config.norm_eps)
        self.o_norm = registry.build(norm, width)

    def mix(self, x_BTD: Tensor, read: Read, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """y_BTD and the new state; `read` computes (3) over a row or for one token."""
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        qkv = silu(self.w_qkv(x_BTD)).unflatten(2, (self.n_heads, 3 * self.d_head))  # (1)
        q, k, v = qkv.transpose(1, 2).split(self.d_head, dim=-1)
        decay_1N1 = -torch.tensor(self.slopes, dtype=wide, device=x_BTD.device)[None, :, None]
        o, state = read(q, k, v, decay_1N1.expand(1, -1, x_BTD.shape[1]), state)
        gate = torch.sigmoid(self.w_gate(x_BTD))
        return self.w_o(gate * self.o_norm(o.transpose(1, 2).flatten(2))), state  # (4)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        return self.mix(x_BTD, partial(chunked, segments_BT=context.segments_BT, chunk=self.chunk), None)[0]

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch, self.n_heads, self.d_head, self.d_head)
        return RecurrentState({"S": torch.zeros(shape, device=device, dtype=wide)}, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        read = partial(chunked, real_BT=step.real_BT, chunk=self.chunk)
        y_BTD, state["S"] = self.mix(x_BTD, read, state["S"])
        state.advance(step)
        return y_BTD

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        y_B1D, state["S"] = self.mix(x_B1D, recur, state["S"])
        state.advance(step)
        return y_B1D


build = LightningAttention
