"""_heads: queries of many heads, keys and values of fewer: what every attention over grouped heads begins with.

Equations   (1) in docs/nn/mixers/gqa.md
Source      Ainslie et al. 2023, arXiv 2305.13245; QK-norm: Henry et al. 2020, arXiv 2010.04245, RMS form per head as in
            Qwen3
Differs     from the paper: w_q, w_k, w_v are one matrix (query rows first)
Shapes      B batch, T tokens, D d_model, N heads, G key-value heads, H d_head
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from llm import registry
from llm.nn.kernels.token import Linear, Module
from llm.nn.mixers.base import Site
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """n_kv_heads = n_heads is MHA, 1 is MQA. qk_norm: RMS-normalise each head's query and key before they are rotated.
    rotate: False for a layer without position in a hybrid model."""

    n_heads: int
    n_kv_heads: int
    qk_norm: bool = False
    d_head: int | None = None  # default d_model / n_heads
    rotate: bool = True

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})")
        if self.d_head is not None:
            self.require(1, "d_head")

    def require(self, least: int, *names: str) -> None:
        """For the fields of a subclass.

        Raises:
            ValueError: one of them is smaller than `least` (0 or 1).
        """
        for name in names:
            if getattr(self, name) < least:
                must = "must be positive" if least else "must not be negative"
                raise ValueError(f"{name} ({getattr(self, name)}) {must}")


class Heads(Module):
    """The matrix of queries, keys and values, the norms of the first two, and their rotation.

    A mixer inherits it before `Mixer`, so that its weights keep the names that published ones are converted to.
    """

    def __init__(self, config: HeadsConfig, site: Site, pairs: int = 1) -> None:
        """pairs: of keys and values, each with rows of its own in w_qkv."""
        super().__init__()
        if config.d_head is None and site.d_model % config.n_heads:
            raise ValueError(
                f"model.mixer: d_model ({site.d_model}) must be a multiple of n_heads ({config.n_heads})"
            )
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.d_head = config.d_head or site.d_model // config.n_heads
        self.rotates: Sequence[int] = (self.d_head,) if config.rotate else ()
        self.qk_norm = config.qk_norm
        self.rows_q, self.rows_kv = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        rows = (self.rows_q, *[self.rows_kv] * 2 * pairs)
        self.w_qkv = Linear(site.d_model, sum(rows))
        self.w_qkv.weight.parts = rows  # type: ignore[attr-defined]  # for Muon
        self.q_norm = registry.build(site.norm, self.d_head) if config.qk_norm else nn.Identity()
        self.k_norm = registry.build(site.norm, self.d_head) if config.qk_norm else nn.Identity()

    def project(self, x_BTD: Tensor, position: Position, angles: Any) -> tuple[Tensor, Tensor, Tensor]:
        """q [B,N,T,H], k and v [B,G,T,H]: projected (1), normalised, rotated. For one pair of keys and values."""
        B, T, _ = x_BTD.shape
        N, G, H = self.n_heads, self.n_kv_heads, self.d_head
        q, k, v = self.w_qkv(x_BTD).view(B, T, N + 2 * G, H).split([N, G, G], dim=2)  # (1)
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
        return self.turn(q, position, angles), self.turn(k, position, angles), v.transpose(1, 2)

    def turn(self, x_BNTH: Tensor, position: Position, angles: Any) -> Tensor:
        """Rotated by its position, in a layer that rotates."""
        return position.rotate(x_BNTH, angles) if self.rotates else x_BNTH
