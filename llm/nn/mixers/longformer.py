"""longformer: softmax attention over the last W tokens and over a few global tokens, which themselves see everything.

Equations   (1)-(5) in docs/nn/mixers/longformer.md; comments below carry the same numbers.
Source      Beltagy et al. 2020, Longformer, arXiv 2004.05150, sections 3.1 and 3.2
Cost        train O(T (W + M) N H) with M = n_global + T / global_every global tokens; decode O((W + M) N H) a token,
            O(S N H) a global one; state 2 G H (W + M + S) numbers with room for S tokens, 2 G H W without globals
Differs     from the paper: causal; global tokens are chosen by their place in the document, not by a task; no
            dilation; key-value heads may be shared, QK-norm (one gain for both projections) and rotation as in gqa
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, G key-value heads, H d_head, W window, M global
            tokens of a row
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.attention import attend_cached
from llm.nn.kernels.banded import Table, banded_attention, marked, table_of_row, take
from llm.nn.kernels.token import Linear
from llm.nn.mixers._cache import CacheState
from llm.nn.mixers._heads import Heads, HeadsConfig
from llm.nn.mixers._window import held, keep, remember
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, State, Step
from llm.nn.position.base import Position, segment_positions


@dataclass(frozen=True, kw_only=True)
class Config(HeadsConfig):
    """window: tokens a query sees, itself included. n_global: first tokens of a document that are global;
    global_every: so is every token at that distance, 0 for none. The other fields are those of
    `_heads.HeadsConfig`."""

    n_heads: int = 4
    n_kv_heads: int = 2
    window: int = 32
    n_global: int = 1
    global_every: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "window")
        self.require(0, "n_global", "global_every")

    def is_global(self, place: Tensor) -> Tensor:
        """True for the places in a document whose tokens are global."""
        found = place < self.n_global
        if self.global_every:
            found = found | ((place + 1) % self.global_every == 0)
        return found


class LongformerState(State):
    """near: the window and the table of global keys, replaced at every step; far: the global projections of all tokens,
    written in place. places_M: where the tokens of the table stand, the same for all rows and left out of nbytes."""

    def __init__(self, near: RecurrentState, far: CacheState, places_M: Tensor) -> None:
        self.near, self.far, self.places_M = near, far, places_M
        self.room, self.lengths_B = far.room, far.lengths_B

    def advance(self, step: Step) -> None:
        super().advance(step)
        self.near.advance(step)
        self.far.advance(step)

    def checkpoint(self) -> tuple[Any, Any]:
        return self.near.checkpoint(), self.far.checkpoint()

    def rollback(self, mark: tuple[Any, Any]) -> None:
        self.near.rollback(mark[0])
        self.far.rollback(mark[1])
        self.lengths_B, self.longest = self.far.lengths_B, self.far.longest

    @property
    def nbytes(self) -> int:
        return self.near.nbytes + self.far.nbytes


class LongformerAttention(Heads, Mixer[LongformerState]):
    """A window, and global tokens with projections of their own."""

    sees_all = False

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site)
        self.config, self.window = config, config.window
        self.has_global = config.n_global > 0 or config.global_every > 0
        if self.has_global:  # two matrices: of a few tokens the queries, of all tokens the keys and values
            self.w_q_global = Linear(site.d_model, self.rows_q)
            self.w_kv_global = Linear(site.d_model, 2 * self.rows_kv)
            self.w_kv_global.weight.parts = (self.rows_kv, self.rows_kv)  # type: ignore[attr-defined]
        self.w_o = Linear(self.rows_q, site.d_model)

    @torch.no_grad()
    def finish_init(self) -> None:
        """The global projections start as copies of the local ones."""
        if self.has_global:
            self.w_q_global.weight.copy_(self.w_qkv.weight[: self.rows_q])
            self.w_kv_global.weight.copy_(self.w_qkv.weight[self.rows_q :])

    # ---------------------------------------------------------------- projections of global tokens

    def global_keys(self, x_BTD: Tensor, position: Position, angles: Any) -> tuple[Tensor, Tensor]:
        """Global k and v of all tokens, [B,G,T,H] (1)."""
        k, v = self.w_kv_global(x_BTD).unflatten(-1, (2 * self.n_kv_heads, self.d_head)).chunk(2, dim=2)
        return self.turn(self.k_norm(k).transpose(1, 2), position, angles), v.transpose(1, 2)

    def global_queries(self, x_BMD: Tensor, position: Position, positions_BM: Tensor) -> Tensor:
        """Global q of the global tokens, [B,N,M,H] (1)."""
        q = self.q_norm(self.w_q_global(x_BMD).unflatten(-1, (self.n_heads, self.d_head))).transpose(1, 2)
        return self.turn(q, position, position.angles(positions_BM, x_BMD.dtype))

    # ---------------------------------------------------------------- whole rows

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        q, k, v = self.project(x_BTD, position, context.angles)
        segments = context.segments_BT
        if not self.has_global:
            o_BNTH = banded_attention(q, k, v, self.window, segments_BT=segments)
            return self.w_o(o_BNTH.transpose(1, 2).flatten(2))
        some = x_BTD.new_ones(x_BTD.shape[:2], dtype=torch.long) if segments is None else segments
        place_BT = segment_positions(some)
        index_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
        starts_BT = index_T - place_BT
        flags_BT = self.config.is_global(place_BT) & (some != 0)
        index_BM, real_BM = marked(flags_BT)
        table = table_of_row(k, v, index_BM, real_BM, starts_BT, self.window)  # (2)
        o_BNTH = banded_attention(q, k, v, self.window, segments_BT=segments, table=table)  # (3)
        seen_BMT = (index_T <= index_BM[..., None]) & (index_T >= starts_BT.gather(1, index_BM)[..., None])
        keys = self.global_keys(x_BTD, position, context.angles)
        positions_BM = context.positions.expand(place_BT.shape).gather(1, index_BM)
        far_BNMH = self.attend_far(x_BTD, index_BM, position, positions_BM, keys, seen_BMT)
        return self.w_o(overwrite(o_BNTH, far_BNMH, flags_BT).transpose(1, 2).flatten(2))  # (5)

    def attend_far(
        self,
        x_BTD: Tensor,
        index_BM: Tensor,
        position: Position,
        positions_BM: Tensor,
        keys: tuple[Tensor, Tensor],
        seen_BMS: Tensor,
    ) -> Tensor:
        """What the tokens at `index_BM` read as global queries, from all keys they see (4) -> [B, N, M, H]."""
        x_BMD = take(x_BTD[:, None], index_BM)[:, 0]
        q_BNMH = self.global_queries(x_BMD, position, positions_BM)
        return attend_cached(q_BNMH, *keys, additive(seen_BMS, keys[0].dtype))

    # ---------------------------------------------------------------- decoding

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> LongformerState:
        index_S = torch.arange(max_len)
        places_M = index_S[self.config.is_global(index_S)].to(device)
        sizes = {"k": self.window, "v": self.window}
        if self.has_global:
            sizes |= {"k_table": len(places_M), "v_table": len(places_M)}
        shapes = {name: (batch, self.n_kv_heads, size, self.d_head) for name, size in sizes.items()}
        near = {name: torch.zeros(shape, device=device, dtype=dtype) for name, shape in shapes.items()}
        width = self.n_kv_heads * self.d_head
        widths = {"k": width, "v": width} if self.has_global else {}
        far = CacheState(widths, batch, max_len, device=device, dtype=dtype)
        return LongformerState(RecurrentState(near, max_len), far, places_M)

    def prefill(self, x_BTD: Tensor, position: Position, state: LongformerState, step: Step) -> Tensor:
        q, k, v = self.project(x_BTD, position, step.angles)
        W = self.window
        filled = held(state.near, W, x_BTD.shape[1])
        both = remember(state.near, {"k": k, "v": v}, step)
        table = None
        if self.has_global:
            self.remember_global(x_BTD, k, v, position, state, step)
            seen_BSM = self.sees_table(state, F.pad(step.positions_BT, (W, 0)))
            table = Table(state.near["k_table"].to(k.dtype), state.near["v_table"].to(k.dtype), seen_BSM)
        state.advance(step)
        # no queries for the old tokens: they have had theirs
        o_BNSH = banded_attention(
            F.pad(q, (0, 0, W, 0)), both["k"], both["v"], W, segments_BT=filled, table=table
        )
        return self.finish(o_BNSH[:, :, W:], x_BTD, position, state, step)

    def decode(self, x_B1D: Tensor, position: Position, state: LongformerState, step: Step) -> Tensor:
        q, k, v = self.project(x_B1D, position, step.angles)
        remember(state.near, {"k": k, "v": v}, step)
        W, place_B1 = self.window, step.positions_BT
        seen_BS = torch.arange(W, device=k.device) >= W - 1 - place_B1
        keys, values = state.near["k"], state.near["v"]
        if self.has_global:
            self.remember_global(x_B1D, k, v, position, state, step)
            seen_BS = torch.cat([seen_BS, self.sees_table(state, place_B1)[:, 0]], dim=1)
            keys = torch.cat([keys, state.near["k_table"]], dim=2)
            values = torch.cat([values, state.near["v_table"]], dim=2)
        state.advance(step)
        o_BN1H = attend_cached(q, keys, values, additive(seen_BS[:, None], keys.dtype))
        return self.finish(o_BN1H, x_B1D, position, state, step)

    def remember_global(
        self, x_BTD: Tensor, k: Tensor, v: Tensor, position: Position, state: LongformerState, step: Step
    ) -> None:
        """Put new global tokens into the table, and the global keys and values of all new tokens into the cache."""
        keep(state.near, {"k_table": k, "v_table": v}, step, state.places_M)
        k, v = self.global_keys(x_BTD, position, step.angles)
        state.far.append(step, k=k.transpose(1, 2).flatten(2), v=v.transpose(1, 2).flatten(2))

    def sees_table(self, state: LongformerState, place_BT: Tensor) -> Tensor:
        """Which tokens of the table lie before the window of each token, [B, T, M] (2)."""
        return state.places_M <= place_BT[..., None] - self.window

    def finish(
        self, o_BNTH: Tensor, x_BTD: Tensor, position: Position, state: LongformerState, step: Step
    ) -> Tensor:
        """Let the global ones among the new tokens read the cache instead."""
        flags_BT = self.config.is_global(step.positions_BT)
        # asks the device, and so saves reading the cache at most steps
        if self.has_global and bool(flags_BT.any()):
            index_BM, _ = marked(flags_BT)
            positions_BM = step.positions_BT.gather(1, index_BM)
            seen_BMS = torch.arange(state.longest, device=x_BTD.device) <= positions_BM[..., None]
            k, v = (
                state.far.seen(name).unflatten(-1, (self.n_kv_heads, -1)).transpose(1, 2) for name in "kv"
            )
            far_BNMH = self.attend_far(x_BTD, index_BM, position, positions_BM, (k, v), seen_BMS)
            o_BNTH = overwrite(o_BNTH, far_BNMH, flags_BT)
        return self.w_o(o_BNTH.transpose(1, 2).flatten(2))  # (5)


def overwrite(o_BNTH: Tensor, far_BNMH: Tensor, flags_BT: Tensor) -> Tensor:
    """The outputs of flagged tokens replaced by those of the slots they stand in."""
    slot_BT = (flags_BT.cumsum(1) - 1).clamp_min(0)
    return torch.where(flags_BT[:, None, :, None], take(far_BNMH, slot_BT), o_BNTH)


def additive(seen_BTS: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to scores, [B, 1, T, S]."""
    mask = torch.zeros(seen_BTS.shape, dtype=dtype, device=seen_BTS.device)
    return mask.masked_fill_(~seen_BTS, float("-inf"))[:, None]


build = LongformerAttention
