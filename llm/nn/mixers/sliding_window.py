"""sliding_window: softmax attention over the last W tokens; stacked layers see further, W - 1 tokens a layer.

Equations   (1)-(3) in docs/nn/mixers/sliding_window.md; comments below carry the same numbers.
Source      Jiang et al. 2023, Mistral 7B, arXiv 2310.06825, section 2; sinks: Xiao et al. 2023, StreamingLLM,
            arXiv 2309.17453
Cost        train O(T W N H); decode O(W N H) a token; state 2 G H (W + sinks) numbers, whatever the length
Differs     from Mistral: the state is kept in order, not as a ring, so that it can be rolled back
Shapes      B batch, T tokens, D d_model, N heads, G key-value heads, H d_head, W window
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.attention import attend_cached
from llm.nn.kernels.banded import Table, banded_attention, marked, table_of_row
from llm.nn.kernels.token import Linear
from llm.nn.mixers._heads import Heads, HeadsConfig
from llm.nn.mixers._window import held, keep, remember
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position, segment_positions


@dataclass(frozen=True, kw_only=True)
class Config(HeadsConfig):
    """window: tokens a query sees, itself included. sinks: first tokens of a document that all later ones see too.
    The other fields are those of `_heads.HeadsConfig`."""

    n_heads: int = 4
    n_kv_heads: int = 2
    window: int = 128
    sinks: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "window")
        self.require(0, "sinks")


class SlidingWindowAttention(Heads, Mixer[RecurrentState]):
    """Grouped-query attention that forgets what is W tokens ago."""

    sees_all = False
    takes_bias = True

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site)
        self.window, self.sinks = config.window, config.sinks
        self.w_o = Linear(self.rows_q, site.d_model)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        q, k, v = self.project(x_BTD, position, context.angles)
        table = None
        if self.sinks:
            segments = x_BTD.new_ones(x_BTD.shape[:2], dtype=torch.long)
            segments = segments if context.segments_BT is None else context.segments_BT
            place_BT = segment_positions(segments)
            starts_BT = torch.arange(place_BT.shape[1], device=place_BT.device) - place_BT
            index_BM, real_BM = marked((place_BT < self.sinks) & (segments != 0))
            table = table_of_row(k, v, index_BM, real_BM, starts_BT, self.window)
        o_BNTH = banded_attention(
            q, k, v, self.window, segments_BT=context.segments_BT, bias_NWS=self.bias(position), table=table
        )  # (2)
        return self.w_o(o_BNTH.transpose(1, 2).flatten(2))  # (3)

    def sees_first(self, place_BT: Tensor) -> Tensor:
        """Which sinks of the state lie before the window of each token, [B, T, F]."""
        return torch.arange(self.sinks, device=place_BT.device) <= place_BT[..., None] - self.window

    def bias(self, position: Position) -> Tensor | None:
        """The bias of the position for one block of queries over two of keys."""
        return position.bias(torch.arange(self.window, 2 * self.window), torch.arange(2 * self.window))

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        sizes = {"k": self.window, "v": self.window} | (
            {"k1": self.sinks, "v1": self.sinks} if self.sinks else {}
        )
        shapes = {name: (batch, self.n_kv_heads, size, self.d_head) for name, size in sizes.items()}
        tensors = {name: torch.zeros(shape, device=device, dtype=dtype) for name, shape in shapes.items()}
        return RecurrentState(tensors, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        q, k, v = self.project(x_BTD, position, step.angles)
        T, W = x_BTD.shape[1], self.window
        filled = held(state, W, T)
        table = None
        if self.sinks:
            keep(state, {"k1": k, "v1": v}, step, torch.arange(self.sinks, device=k.device))
            place_BS = F.pad(step.positions_BT, (W, 0))
            table = Table(state["k1"].to(k.dtype), state["v1"].to(k.dtype), self.sees_first(place_BS))
        both = remember(state, {"k": k, "v": v}, step)
        state.advance(step)
        before = q.new_zeros(*q.shape[:2], W, q.shape[3])  # no queries: the old tokens have had theirs
        o_BNSH = banded_attention(
            torch.cat([before, q], dim=2), both["k"], both["v"], W,
            segments_BT=filled, bias_NWS=self.bias(position), table=table,
        )  # fmt: skip
        return self.w_o(o_BNSH[:, :, W:].transpose(1, 2).flatten(2))

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        q, k, v = self.project(x_B1D, position, step.angles)
        if self.sinks:
            keep(state, {"k1": k, "v1": v}, step, torch.arange(self.sinks, device=k.device))
        remember(state, {"k": k, "v": v}, step)
        state.advance(step)
        W, place_B1 = self.window, step.positions_BT
        seen_BS = torch.arange(W, device=k.device) >= W - 1 - place_B1
        keys, values = state["k"], state["v"]
        if self.sinks:
            seen_BS = torch.cat([seen_BS, self.sees_first(place_B1)[:, 0]], dim=1)
            keys, values = torch.cat([keys, state["k1"]], dim=2), torch.cat([values, state["v1"]], dim=2)
        mask = torch.zeros(seen_BS.shape, device=k.device).masked_fill(~seen_BS, float("-inf"))[:, None, None]
        bias = position.bias(torch.tensor([W - 1]), torch.arange(W))
        if bias is not None:
            mask = mask + F.pad(bias, (0, self.sinks)).to(mask.device)
        o_BN1H = attend_cached(q, keys, values, mask.to(q.dtype))
        return self.w_o(o_BN1H.transpose(1, 2).flatten(2))


build = SlidingWindowAttention
