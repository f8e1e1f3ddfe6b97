"""nsa: three attentions side by side: to summaries of all past blocks, to a few blocks in full, to a window.

Equations   (1)-(10) in docs/nn/mixers/nsa.md; comments below carry the same numbers.
Source      Yuan et al. 2025, Native Sparse Attention, arXiv 2502.11089, section 3
Cost        train O(T (T / s + K l' + W) N H), all linear in T but the first; decode O((S / s + K l' + W) N H);
            state 2 G H numbers a token and every s tokens, and 2 G H (l - 1 + W) whatever the length
Differs     from the paper: summaries are made of keys that are not rotated and read by queries that are not (the
            paper does not say); of equally important blocks the later one wins
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, G key-value heads, H d_head, K top_k, J summaries,
            l block, s stride, l' select, W window, C queries of a tile
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.activation import silu
from llm.nn.kernels.attention import attend_cached
from llm.nn.kernels.banded import banded_attention
from llm.nn.kernels.block_attention import attend_blocks, attend_blocks_cached
from llm.nn.kernels.compressed import attend_compressed
from llm.nn.kernels.grid import PlainGrid, make_grid
from llm.nn.kernels.ranking import NEVER, ranks
from llm.nn.kernels.token import Linear
from llm.nn.mixers._cache import CacheState
from llm.nn.mixers._heads import Heads, HeadsConfig
from llm.nn.mixers._window import remember
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position, segment_positions

FORCED = 3  # blocks that every query reads: its own, the one before it, the first


@dataclass(frozen=True, kw_only=True)
class Config(HeadsConfig):
    """block, stride: tokens of a summarised block, and from one to the next. select: tokens of a block that is read
    in full; top_k: how many of them, own, previous and first among them. window: tokens seen in full, itself
    included. summary: how a block becomes one vector. separate_kv: keys and values of its own for each of the
    three. The other fields are those of `_heads.HeadsConfig`."""

    n_heads: int = 4
    n_kv_heads: int = 2
    block: int = 16
    stride: int = 8
    select: int = 32
    top_k: int = 4
    window: int = 64
    summary: Literal["mlp", "mean"] = "mlp"
    separate_kv: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "stride", "window")
        for name in ("block", "select"):
            if getattr(self, name) < 1 or getattr(self, name) % self.stride:
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be a multiple of stride ({self.stride})"
                )
        if self.top_k < FORCED:
            raise ValueError(f"top_k ({self.top_k}) must be at least {FORCED}: own, previous and first block")


class Summary(nn.Module):
    """One vector for the l vectors of a block (1): they know their place in it, then a network of two layers."""

    def __init__(self, l: int, H: int) -> None:  # the paper's name
        super().__init__()
        self.place_lH = nn.Parameter(torch.zeros(l, H))
        self.place_lH.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.w_in = nn.Linear(l * H, 2 * H, bias=False)
        self.w_out = nn.Linear(2 * H, H, bias=False)

    def finish_init(self) -> None:
        self.place_lH.normal_(0.0, 0.02)

    def forward(self, x_lH: Tensor) -> Tensor:
        """[..., l, H] -> [..., H]."""
        y_H: Tensor = self.w_out(silu(self.w_in((x_lH + self.place_lH).flatten(-2))))
        return y_H


class Mean(nn.Module):
    """The mean of the l vectors of a block."""

    def forward(self, x_lH: Tensor) -> Tensor:
        return x_lH.mean(-2)


class NativeState(CacheState):
    """Keys and values of all tokens, for the blocks read in full; summaries; and what is needed of the latest tokens.

    recent: the last l - 1 keys and values not rotated, and a window where it has its own. Summaries are written when
    their last token comes; the place behind the last takes those that are not complete.
    """

    def __init__(
        self,
        mixer: "NativeSparseAttention",
        batch: int,
        room: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        G, H, l = mixer.n_kv_heads, mixer.d_head, mixer.block
        super().__init__({"k": G * H, "v": G * H}, batch, room, device=device, dtype=dtype)
        kept = self.tables["k"].dtype
        summaries = max(0, (room - l) // mixer.stride + 1)
        self.summaries = {
            name: torch.zeros(batch, summaries + 1, G * H, device=device, dtype=kept) for name in "kv"
        }
        sizes = {"k": l - 1, "v": l - 1} | (
            {"k_window": mixer.window, "v_window": mixer.window} if mixer.separate_kv else {}
        )
        tails = {name: torch.zeros(batch, G, n, H, device=device, dtype=kept) for name, n in sizes.items()}
        self.recent = RecurrentState(tails, room)

    def checkpoint(self) -> Any:
        return super().checkpoint(), self.recent.checkpoint()

    def rollback(self, mark: Any) -> None:
        super().rollback(mark[0])
        self.recent.rollback(mark[1])

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.recent.nbytes + sum(table.nbytes for table in self.summaries.values())


@dataclass(frozen=True)
class Branches:
    """Queries as they are and rotated [B, N, T, H]; keys and values of each branch [B, T, G, H]."""

    q: Tensor
    q_turned: Tensor
    far: tuple[Tensor, Tensor]
    chosen: tuple[Tensor, Tensor]
    near: tuple[Tensor, Tensor]


class NativeSparseAttention(Heads, Mixer[NativeState]):
    """Grouped-query attention by three roads, mixed by a gate for each head."""

    sees_all = False
    chooses = True

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site, pairs=3 if config.separate_kv else 1)
        self.block, self.stride, self.select = config.block, config.stride, config.select
        self.top_k, self.window, self.separate_kv = config.top_k, config.window, config.separate_kv
        self.w_gate = Linear(site.d_model, 3 * self.n_heads)
        self.w_o = Linear(self.rows_q, site.d_model)
        self.sum_k, self.sum_v = (
            Summary(config.block, self.d_head) if config.summary == "mlp" else Mean() for _ in "kv"
        )

    def branches(self, x_BTD: Tensor, position: Position, angles: Any) -> Branches:
        """Projected, keys and queries normalised; rotated for the two branches that read tokens."""
        N, G = self.n_heads, self.n_kv_heads
        heads = self.w_qkv(x_BTD).unflatten(-1, (-1, self.d_head))
        q, *pairs = heads.split([N, *[2 * G] * (3 if self.separate_kv else 1)], dim=2)
        q = self.q_norm(q).transpose(1, 2)
        plain = [(self.k_norm(k), v) for k, v in (pair.chunk(2, dim=2) for pair in pairs)]
        if not self.rotates:
            return Branches(q, q, *(plain * 3)[:3])
        turned = [
            (position.rotate(k.transpose(1, 2), angles).transpose(1, 2), v)
            for k, v in plain[len(plain) // 2 :]
        ]
        return Branches(q, position.rotate(q, angles), plain[0], turned[0], turned[-1])

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        T, segments = x_BTD.shape[1], context.segments_BT
        parts = self.branches(x_BTD, position, context.angles)
        index_1T = torch.arange(T, device=x_BTD.device)[None]
        place_BT = index_1T if segments is None else segment_positions(segments)
        grid = make_grid(T, self.select, segments, x_BTD.device)
        k, v = (self.cut(grid.lay(x)) for x in parts.far)
        k, v = self.sum_k(k).transpose(1, 2), self.sum_v(v).transpose(1, 2)  # (1)
        far, chosen, limit = self.attend_far(parts.q, k, v, place_BT, grid.slot_BT, grid.chunks)
        k, v = (grid.lay(x) for x in parts.chosen)
        full = attend_blocks(parts.q_turned, k, v, self.by_head(chosen), self.by_head(limit))  # (7)
        k, v = (x.transpose(1, 2) for x in parts.near)
        near = banded_attention(parts.q_turned, k, v, self.window, segments_BT=segments)  # (8)
        return self.mix(x_BTD, far, full, near)

    def cut(self, x_BcCGH: Tensor) -> Tensor:
        """[B, J, G, l, H]: a block begins at every stride of the table; those that reach beyond a document are
        never seen."""
        padded = F.pad(x_BcCGH.flatten(1, 2), (0, 0, 0, 0, 0, self.block - self.stride))
        return padded.unfold(1, self.block, self.stride).transpose(-1, -2)

    def attend_far(
        self, q_BNTH: Tensor, k_BGJH: Tensor, v_BGJH: Tensor, place_BT: Tensor, own_BT: Tensor, blocks: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention to summaries; blocks each group chooses by it, and the last key seen of each [B, G, T, K].

        place: of the query in its document; own: its block in the table of `blocks`.
        """
        first_BT = own_BT - place_BT // self.select
        low_BT = first_BT * (self.select // self.stride)
        high_BT = low_BT + ((place_BT - self.block + 1) // self.stride).clamp_min(-1)  # (2)
        found: list[tuple[Tensor, Tensor]] = []

        def look(begin: int, end: int, share_BGCJ: Tensor) -> None:
            parts = place_BT[:, begin:end], own_BT[:, begin:end], first_BT[:, begin:end]
            found.append(self.choose(share_BGCJ, *parts, blocks))

        out = attend_compressed(q_BNTH, k_BGJH, v_BGJH, low_BT, high_BT, look)  # (3)
        chosen, limit = (torch.cat(x, dim=2) for x in zip(*found, strict=True))
        return out, chosen, limit

    def choose(
        self, share_BGCJ: Tensor, place_BC: Tensor, own_BC: Tensor, first_BC: Tensor, blocks: int
    ) -> tuple[Tensor, Tensor]:
        """The blocks of each query, own, previous, first, then the most important ones, and the last key seen of
        each (-1: there is no such block)."""
        importance = self.importance(share_BGCJ, blocks)
        B, G, C, reach = importance.shape
        own, first = (x[:, None, :, None].expand(B, G, C, 1) for x in (own_BC, first_BC))
        block_c = torch.arange(reach, device=own.device)
        free = (block_c > first) & (block_c < own - 1)
        rank = ranks(importance).masked_fill_(~free, NEVER)  # (5)
        count = min(self.top_k - FORCED, blocks)
        best = F.pad(rank, (0, max(0, count - reach)), value=NEVER).topk(count, dim=-1)
        chosen = torch.cat([own, own - 1, first, best.indices], dim=-1)
        exists = torch.cat([own >= 0, own - 1 >= first, first < own - 1, best.values > NEVER], dim=-1)
        limit = torch.full_like(chosen, self.select - 1)
        limit[..., 0] = (place_BC % self.select)[:, None]  # (6) nothing later in the own block
        return chosen, limit.masked_fill_(~exists, -1)

    def importance(self, share_BGCJ: Tensor, blocks: int) -> Tensor:
        """What each block has of the probability of the summaries, by the number of strides they share (4)."""
        J, spread, per = share_BGCJ.shape[-1], self.block // self.stride, self.select // self.stride
        # queries that see J summaries stand at most `spread` strides behind the last of them
        reach = min(blocks, (J + spread - 1) // per + 1)
        padded = F.pad(share_BGCJ, (spread - 1, per * reach - J))
        strides = torch.zeros_like(padded[..., : per * reach])
        for i in range(spread):  # a stride of tokens is in as many summaries
            strides += padded[..., i : i + per * reach]
        return strides.unflatten(-1, (reach, per)).sum(-1)

    def mix(self, x_BTD: Tensor, far: Tensor, full: Tensor, near: Tensor) -> Tensor:
        """Three outputs [B, N, T, H] weighed by gates of each head that do not add up to 1."""
        gate = torch.sigmoid(self.w_gate(x_BTD)).unflatten(-1, (3, -1))  # (9)
        g_far, g_full, g_near = gate.permute(2, 0, 3, 1).unsqueeze(-1)  # [B, N, T, 1] each
        o_BNTH = g_far * far + g_full * full + g_near * near
        return self.w_o(o_BNTH.transpose(1, 2).flatten(2))  # (10)

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> NativeState:
        return NativeState(self, batch, max_len, device=device, dtype=dtype)

    def look_back(
        self, x_BTD: Tensor, position: Position, state: NativeState, step: Step
    ) -> tuple[Branches, Tensor, Tensor, Tensor]:
        """Store new tokens; their branches, near keys and values being the window and the new ones [B, G, W + T, H];
        attention to summaries, chosen blocks and limits of these."""
        parts = self.branches(x_BTD, position, step.angles)
        new = {"k": parts.far[0], "v": parts.far[1]}
        if self.separate_kv:
            new |= {"k_window": parts.near[0], "v_window": parts.near[1]}
        both = remember(state.recent, {name: x.transpose(1, 2) for name, x in new.items()}, step)
        state.recent.advance(step)
        self.summarise(state, both, step)
        state.append(step, k=parts.chosen[0].flatten(2), v=parts.chosen[1].flatten(2))
        near = (both["k_window"], both["v_window"]) if self.separate_kv else self.latest(state, step)
        place_BT, kept = step.positions_BT, state.tables["k"].dtype
        seen = max(1, (state.longest - self.block) // self.stride + 1)
        k, v = (self.heads(table[:, :seen]).transpose(1, 2) for table in state.summaries.values())
        blocks = -(-state.longest // self.select)
        out = self.attend_far(parts.q.to(kept), k, v, place_BT, place_BT // self.select, blocks)
        return replace(parts, near=near), out[0].to(x_BTD.dtype), out[1], out[2]

    def summarise(self, state: NativeState, both: dict[str, Tensor], step: Step) -> None:
        """Write the summaries that the new tokens complete; both: the l - 1 vectors before them, and them."""
        l, s, start_B1 = self.block, self.stride, step.positions_BT[:, :1]
        T, device = step.positions_BT.shape[1], start_B1.device
        number_Bc = (start_B1 - l + s) // s + torch.arange(-(-T // s), device=device)
        complete_Bc = (number_Bc >= 0) & (number_Bc * s + l <= start_B1 + T)
        inside_l = torch.arange(l, device=device)
        where_Bcl = ((number_Bc * s - start_B1 + l - 1)[..., None] + inside_l).clamp(0, l + T - 2)
        rows = torch.arange(len(start_B1), device=device)[:, None]
        for name, net in (("k", self.sum_k), ("v", self.sum_v)):
            table = state.summaries[name]
            blocks = both[name].transpose(1, 2)[rows[..., None], where_Bcl]  # [B, c, l, G, H]
            place_Bc = number_Bc.where(complete_Bc, table.shape[1] - 1)
            table[rows, place_Bc] = net(blocks.transpose(2, 3)).flatten(2).to(table.dtype)

    def latest(self, state: NativeState, step: Step) -> tuple[Tensor, Tensor]:
        """The window before the new tokens, and them, out of the keys and values of all tokens."""
        W, (B, T) = self.window, step.positions_BT.shape
        index_S = torch.arange(-W, T, device=step.positions_BT.device)
        where_BS = (step.positions_BT[:, :1] + index_S).clamp_min(0)
        rows = torch.arange(B, device=where_BS.device)[:, None]
        k, v = (self.heads(table[rows, where_BS]).transpose(1, 2) for table in state.tables.values())
        return k, v

    def heads(self, x_BSW: Tensor) -> Tensor:
        return x_BSW.unflatten(2, (self.n_kv_heads, -1))

    def prefill(self, x_BTD: Tensor, position: Position, state: NativeState, step: Step) -> Tensor:
        parts, far, chosen, limit = self.look_back(x_BTD, position, state, step)
        grid, dtype = PlainGrid(state.longest, self.select, x_BTD.device), x_BTD.dtype
        keys, values = (grid.lay(self.heads(state.seen(name)).to(dtype)) for name in "kv")
        full = attend_blocks(parts.q_turned, keys, values, self.by_head(chosen), self.by_head(limit))
        k, v = (x.to(dtype) for x in parts.near)
        q = F.pad(parts.q_turned, (0, 0, self.window, 0))  # the old tokens have had their turn
        near = banded_attention(q, k, v, self.window, segments_BT=self.filled(step).long())
        return self.mix(x_BTD, far, full, near[:, :, self.window :])

    def decode(self, x_B1D: Tensor, position: Position, state: NativeState, step: Step) -> Tensor:
        parts, far, chosen, limit = self.look_back(x_B1D, position, state, step)
        k, v = (self.heads(table) for table in state.tables.values())
        full = attend_blocks_cached(parts.q_turned, k, v, chosen, limit, self.select)
        k, v = (x[:, :, 1:] for x in parts.near)
        mask = torch.zeros(k.shape[0], self.window, device=k.device, dtype=k.dtype)
        mask = mask.masked_fill_(~self.filled(step)[:, 1:], float("-inf"))[:, None, None]
        return self.mix(x_B1D, far, full, attend_cached(parts.q_turned, k, v, mask))

    def filled(self, step: Step) -> Tensor:
        """Which of the window and the new tokens there are, [B, W + T]."""
        T, device = step.positions_BT.shape[1], step.positions_BT.device
        return step.positions_BT[:, :1] + torch.arange(-self.window, T, device=device) >= 0

    def by_head(self, x_BGTK: Tensor) -> Tensor:
        """Every head of a group reads the blocks of the group, [B, N, T, K]."""
        return x_BGTK.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)


build = NativeSparseAttention
