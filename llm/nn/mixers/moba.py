"""moba: softmax attention over the own block of keys and the few past blocks whose mean key fits the query best.

Equations   (1)-(5) in docs/nn/mixers/moba.md; comments below carry the same numbers.
Source      Lu et al. 2025, MoBA: Mixture of Block Attention, arXiv 2502.13189, section 2.2
Cost        train O(T (T / C + K C) N H); decode O((S / C + K C) N H); state 2 G H numbers a token, G H a block
Differs     from the paper: nothing; blocks are counted from the start of a document; of equal scores the later
            block wins
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, G key-value heads, H d_head, C block, K top_k
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.block_attention import attend_blocks, attend_blocks_cached
from llm.nn.kernels.fused import high
from llm.nn.kernels.grid import PlainGrid, make_grid
from llm.nn.kernels.ranking import NEVER, ranks
from llm.nn.kernels.selected import tiles
from llm.nn.kernels.token import Linear
from llm.nn.mixers._cache import CacheState
from llm.nn.mixers._heads import Heads, HeadsConfig
from llm.nn.mixers.base import Context, Mixer, Site, Step
from llm.nn.position.base import Position, segment_positions


@dataclass(frozen=True, kw_only=True)
class Config(HeadsConfig):
    """block: keys of a block. top_k: blocks a query reads, its own among them. The other fields are those of
    `_heads.HeadsConfig`."""

    n_heads: int = 4
    n_kv_heads: int = 2
    block: int = 64
    top_k: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "block", "top_k")


class BlockCache(CacheState):
    """Keys and values of all tokens, and the mean key of every block that is full.

    The mean of a block is written anew whenever one of its tokens comes, never added to, so that forgetting
    tokens needs no repair: a block that is asked for its mean has been filled since.
    """

    def __init__(
        self, width: int, batch: int, room: int, C: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__({"k": width, "v": width}, batch, room, device=device, dtype=dtype)
        kept = high(self.tables["k"].dtype)
        self.C, self.means = C, torch.zeros(batch, -(-room // C), width, device=device, dtype=kept)

    def write(self, k_BTW: Tensor, v_BTW: Tensor, step: Step) -> None:
        """New tokens, and the means of the blocks they are in."""
        self.append(step, k=k_BTW, v=v_BTW)
        T, C, keys = k_BTW.shape[1], self.C, self.tables["k"]
        touched = torch.arange((T + C - 2) // C + 1, device=keys.device)
        block_Bc = (step.positions_BT[:, :1] // C + touched).clamp_max(self.means.shape[1] - 1)
        where_BcC = (block_Bc[..., None] * C + torch.arange(C, device=keys.device)).clamp_max(self.room - 1)
        rows = torch.arange(len(keys), device=keys.device)[:, None]
        self.means[rows, block_Bc] = block_means(keys[rows[..., None], where_BcC])

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.means.nbytes


def block_means(keys_BcCX: Tensor) -> Tensor:
    """[B, c, C, ...] -> [B, c, ...] in float32 or finer; of use only where all C places hold tokens."""
    return keys_BcCX.to(high(keys_BcCX.dtype)).mean(2)


@torch.no_grad()
def choose(
    q_BNTH: Tensor, means_BcGH: Tensor, own_BT: Tensor, first_BT: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The own block and the k - 1 best of first .. own - 1 for each query, and which of them exist: [B, N, T, k].

    Scores rank and nothing else, so they carry no gradient.
    """
    (B, N, T, _), (c, G) = q_BNTH.shape, means_BcGH.shape[1:3]
    means_BG1Hc = means_BcGH.permute(0, 2, 3, 1)[:, :, None]
    block_c, k = torch.arange(c, device=q_BNTH.device), min(k, c)
    best, exists = [], []
    for begin, end in tiles(T, B * N * c):
        q = q_BNTH[:, :, begin:end].to(means_BcGH.dtype).unflatten(1, (G, N // G))
        scores = (q @ means_BG1Hc).flatten(1, 2)  # (1) [B, N, T, c]
        own, first = own_BT[:, begin:end, None], first_BT[:, begin:end, None]
        past = (block_c >= first) & (block_c < own)
        found = ranks(scores).masked_fill_(~past[:, None], NEVER).topk(k - 1, dim=-1)
        best.append(torch.cat([own[:, None].expand(B, N, -1, 1), found.indices], dim=-1))  # (2)
        exists.append(F.pad(found.values > NEVER, (1, 0), value=True))
    return torch.cat(best, dim=2), torch.cat(exists, dim=2)


class MixtureOfBlocks(Heads, Mixer[CacheState]):
    """Grouped-query attention over blocks that each query of each head chooses for itself."""

    sees_all = False
    chooses = True

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site)
        self.block, self.top_k = config.block, config.top_k
        self.w_o = Linear(self.rows_q, site.d_model)

    def choose(
        self, q_BNTH: Tensor, means_BcGH: Tensor, place_BT: Tensor, own_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Chosen blocks and the last key each query sees of them; place: in its document, own: its block."""
        chosen, exists = choose(q_BNTH, means_BcGH, own_BT, own_BT - place_BT // self.block, self.top_k)
        limit = torch.full_like(chosen, self.block - 1)
        limit[..., 0] = (place_BT % self.block)[:, None]  # (3) nothing later in the own block
        return chosen, limit.masked_fill(~exists, -1)

    def finish(self, o_BNTH: Tensor) -> Tensor:
        return self.w_o(o_BNTH.transpose(1, 2).flatten(2))  # (5)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        T, segments = x_BTD.shape[1], context.segments_BT
        q, k, v = self.project(x_BTD, position, context.angles)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # tokens first, as blocks and the cache hold them
        index_1T = torch.arange(T, device=x_BTD.device)[None]
        place_BT = index_1T if segments is None else segment_positions(segments)
        grid = make_grid(T, self.block, segments, x_BTD.device)
        keys, values = grid.lay(k), grid.lay(v)
        chosen, limit = self.choose(q, block_means(keys), place_BT, grid.slot_BT)
        return self.finish(attend_blocks(q, keys, values, chosen, limit))  # (4)

    def init_state(self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype) -> BlockCache:
        width = self.n_kv_heads * self.d_head
        return BlockCache(width, batch, max_len, self.block, device=device, dtype=dtype)

    def look_up(
        self, x_BTD: Tensor, position: Position, state: CacheState, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Store new tokens; their queries, chosen blocks and the limits of these."""
        assert isinstance(state, BlockCache)
        q, k, v = self.project(x_BTD, position, step.angles)
        state.write(k.transpose(1, 2).flatten(2), v.transpose(1, 2).flatten(2), step)
        means = state.means[:, : -(-state.longest // self.block)].unflatten(2, (self.n_kv_heads, -1))
        return q, *self.choose(q, means, step.positions_BT, step.positions_BT // self.block)

    def prefill(self, x_BTD: Tensor, position: Position, state: CacheState, step: Step) -> Tensor:
        q, chosen, limit = self.look_up(x_BTD, position, state, step)
        grid = PlainGrid(state.longest, self.block, q.device)
        keys, values = (
            state.seen(name).to(q.dtype).unflatten(2, (self.n_kv_heads, -1)) for name in ("k", "v")
        )
        return self.finish(attend_blocks(q, grid.lay(keys), grid.lay(values), chosen, limit))

    def decode(self, x_B1D: Tensor, position: Position, state: CacheState, step: Step) -> Tensor:
        q, chosen, limit = self.look_up(x_B1D, position, state, step)
        keys, values = (state.tables[name].unflatten(2, (self.n_kv_heads, -1)) for name in ("k", "v"))
        return self.finish(attend_blocks_cached(q, keys, values, chosen, limit, self.block))


build = MixtureOfBlocks
