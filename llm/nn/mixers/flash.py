"""flash: the gated attention unit with mixed chunks: squared-ReLU attention inside a chunk, linear attention between.

Not FlashAttention, which is an exact way to compute softmax attention.

Equations   (1)-(7) in docs/nn/mixers/flash.md; comments below carry the same numbers.
Source      Hua et al. 2022, Transformer Quality in Linear Time, arXiv 2202.10447, sections 2.2 and 3.2
Cost        train O(T (C + S) (S + E)) time; decode O((C + S) E) per token; state 2 S E + C (S + E) numbers
Differs     from the paper: there one unit replaces attention and FFN both, here it is a mixer and an FFN follows;
            the bias is a table of distances, which starts as an even mean over the chunk; chunks are counted
            from the start of a document
Shapes      B batch, T tokens, D d_model, S d_key, E = expansion D, c chunks of C tokens
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.activation import silu
from llm.nn.kernels.grid import Grid, make_grid
from llm.nn.kernels.linear_attention import scan
from llm.nn.mixers.base import Context, Mixer, RecurrentState, Site, Step
from llm.nn.position.base import Position

QUAD_Q, LINEAR_Q, QUAD_K, LINEAR_K = range(4)


@dataclass(frozen=True, kw_only=True)
class Config:
    """d_key: width of the one shared head; expansion: width of the values in d_model; chunk: tokens with
    quadratic attention among them, which changes the result."""

    d_key: int = 128
    expansion: float = 2.0
    chunk: int = 128
    rotate: bool = True

    def __post_init__(self) -> None:
        for name in ("d_key", "expansion", "chunk"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


class Affine(nn.Module):
    """Four queries and keys out of one vector, a gain and an offset for each of its channels (2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.zeros(4, width)), nn.Parameter(torch.zeros(4, width))
        for table in (self.gain, self.offset):
            table.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay

    def finish_init(self) -> None:
        self.gain.normal_(0.0, 0.02)
        self.offset.zero_()

    def forward(self, z_BTS: Tensor) -> Tensor:
        """[B, T, S] -> [B, 4, T, S]."""
        return z_BTS[:, None] * self.gain[:, None] + self.offset[:, None]


class DistanceBias(nn.Module):
    """b (4): one number for each distance within a chunk."""

    def __init__(self, chunk: int) -> None:
        super().__init__()
        self.by_distance = nn.Parameter(torch.zeros(chunk))
        self.by_distance.elementwise = True  # type: ignore[attr-defined]

    def finish_init(self) -> None:
        self.by_distance.fill_(len(self.by_distance) ** -0.5)  # squared 1 / C: the mean over a full chunk

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        """b for queries at places i and keys at places j <= i of a chunk."""
        return self.by_distance[(i - j).clamp(min=0)]


class Flash(Mixer[RecurrentState]):
    """A gate, one shared head, values wider than the model."""

    sees_all = False  # a score below zero leaves a token of the same chunk out

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.d_key, self.chunk = config.d_key, config.chunk
        self.d_value = int(config.expansion * site.d_model)
        if self.d_value < 1:
            raise ValueError(f"model.mixer: expansion ({config.expansion}) leaves no value; raise it")
        self.rotates = (self.d_key,) if config.rotate else ()
        parts = (self.d_value, self.d_value, self.d_key)
        self.w_in = nn.Linear(site.d_model, sum(parts), bias=False)
        self.w_in.weight.parts = parts  # type: ignore[attr-defined]  # for Muon
        self.affine = Affine(self.d_key)
        self.bias = DistanceBias(self.chunk)
        self.w_o = nn.Linear(self.d_value, site.d_model, bias=False)

    def project(self, x_BTD: Tensor, position: Position, angles: Any) -> tuple[Tensor, Tensor, Tensor]:
        """u and v [B, T, E] (1); the two queries and two keys [B, 4, T, S] (2), rotated."""
        hidden = silu(self.w_in(x_BTD))
        u, v, z = hidden.split([self.d_value, self.d_value, self.d_key], dim=-1)
        heads = self.affine(z)
        return u, v, position.rotate(heads, angles) if self.rotates else heads

    def near(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Squared-ReLU attention of queries at places i of a chunk to keys at places j (3)-(4)."""
        scores = q @ k.mT / self.chunk + self.bias(i[..., :, None], j).to(q.dtype)
        return F.relu(scores).square().masked_fill(j > i[..., :, None], 0) @ v

    def far(self, q: Tensor, sums: Tensor) -> Tensor:
        """Linear attention to the chunks before (5)."""
        return q @ sums.to(q.dtype)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        T = x_BTD.shape[1]
        u, v, heads = self.project(x_BTD, position, context.angles)
        grid = make_grid(T, min(self.chunk, T), context.segments_BT, x_BTD.device)
        tables = grid.lay(heads.transpose(1, 2)).movedim(3, 0)  # [4, B, c, C, S]
        v = grid.lay(v)
        i = torch.arange(grid.C, device=x_BTD.device)
        o = self.near(tables[QUAD_Q], tables[QUAD_K], v, i, i)
        if grid.chunks > 1:
            inside_B = (grid.number_Bc > 0)[..., None, None]  # not the first chunk of a document
            befores, _ = self.sum_chunks(tables[LINEAR_K], v, None, inside_B)
            o = o + self.far(tables[LINEAR_Q], befores * inside_B)
        y_BTD: Tensor = self.w_o(u * grid.back(o))  # (7)
        return y_BTD

    def sum_chunks(
        self, k_BcCS: Tensor, v_BcCE: Tensor, first: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sums of k v^T / C over all chunks before each, [B, c, S, E] (6), and over each chunk itself."""
        wide = torch.promote_types(k_BcCS.dtype, torch.float32)
        own = (k_BcCS.mT @ v_BcCE).to(wide) / self.chunk
        start = torch.zeros_like(own[:, 0]) if first is None else first
        befores, _ = scan(start, own, keep, dim=1)
        return befores, own

    def init_state(
        self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype
    ) -> RecurrentState:
        """done: sum over the finished chunks; open: over the current one, whose keys and values are k and v."""
        wide, S, E, C = torch.promote_types(dtype, torch.float32), self.d_key, self.d_value, self.chunk
        shapes = {"done": (S, E), "open": (S, E), "k": (C, S), "v": (C, E)}
        zeros = {
            name: torch.zeros(batch, *shape, device=device, dtype=wide) for name, shape in shapes.items()
        }
        return RecurrentState(zeros, max_len)

    def prefill(self, x_BTD: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        u, v, heads = self.project(x_BTD, position, step.angles)
        wide = state["v"].dtype
        if step.real_BT is not None:
            v = v.masked_fill(~step.real_BT[..., None], 0)
        grid = Grid(step.positions_BT, self.chunk)
        tables = grid.lay(heads.transpose(1, 2)).movedim(3, 0).to(wide)
        v = grid.lay(v).to(wide)
        i, c = torch.arange(self.chunk, device=x_BTD.device), grid.chunks
        # the first chunk may have begun before: its places up to here are in the state
        old_BC1 = (i < state.lengths_B[:, None] % self.chunk)[..., None]
        first = torch.arange(c, device=x_BTD.device)[:, None, None] == 0
        k_quad = torch.where(first & old_BC1[:, None], state["k"][:, None], tables[QUAD_K])
        v_all = torch.where(first & old_BC1[:, None], state["v"][:, None], v)
        befores, own = self.sum_chunks(tables[LINEAR_K], v, state["done"], None)
        befores = befores + torch.where(first, 0, state["open"][:, None])
        own = own + torch.where(first, state["open"][:, None], 0)
        o = self.near(tables[QUAD_Q], k_quad, v_all, i, i) + self.far(tables[LINEAR_Q], befores)
        last_B = step.ends_B // self.chunk - state.lengths_B // self.chunk  # chunk that the next token is in
        self.remember(state, {"done": befores, "open": own, "k": k_quad, "v": v_all}, last_B)
        state.advance(step)
        y_BTD: Tensor = self.w_o(u * grid.back(o).to(u.dtype))
        return y_BTD

    def remember(self, state: RecurrentState, tables: dict[str, Tensor], last_B: Tensor) -> None:
        """Each row's chunk `last_B` becomes the current one; it may be one after the end of the tables."""
        rows = torch.arange(len(last_B), device=last_B.device)
        for name, table in tables.items():
            after = (
                table[:, -1:] + tables["open"][:, -1:] if name == "done" else torch.zeros_like(table[:, :1])
            )
            state[name] = torch.cat([table, after], dim=1)[rows, last_B]

    def decode(self, x_B1D: Tensor, position: Position, state: RecurrentState, step: Step) -> Tensor:
        u, v, heads = self.project(x_B1D, position, step.angles)
        wide = state["v"].dtype
        v, heads = v.to(wide), heads.to(wide)
        i = torch.arange(self.chunk, device=x_B1D.device)
        here_B = state.lengths_B % self.chunk
        here_BC1 = (i == here_B[:, None])[..., None]
        state["k"] = torch.where(here_BC1, heads[:, QUAD_K], state["k"])
        state["v"] = torch.where(here_BC1, v, state["v"])
        near = self.near(heads[:, QUAD_Q], state["k"], state["v"], here_B[:, None], i)
        o = near + self.far(heads[:, LINEAR_Q], state["done"])
        opened = state["open"] + heads[:, LINEAR_K].mT * v / self.chunk
        full = (here_B == self.chunk - 1)[:, None, None]
        state["done"] = torch.where(full, state["done"] + opened, state["done"])
        state["open"] = opened.masked_fill(full, 0)
        state.advance(step)
        y_B1D: Tensor = self.w_o(u * o.to(u.dtype))
        return y_B1D


build = Flash
