"""GQA: softmax attention in which groups of query heads share one key-value head.

Equations   (1)-(4) in docs/nn/mixers/gqa.md; comments below carry the same numbers.
Source      Vaswani et al. 2017, arXiv 1706.03762 (MHA: n_kv_heads = n_heads); Shazeer 2019,
            arXiv 1911.02150 (MQA: n_kv_heads = 1); Ainslie et al. 2023, arXiv 2305.13245 (GQA); gate: Qiu et al.
            2025, arXiv 2505.06708, section 2.2, form G1 as in Qwen3-Next
Cost        train O(T^2 N H) time; decode O(T G H) per token; state 2 G H numbers per token and layer
Differs     from the papers: nothing; w_q, w_k, w_v are one matrix (query rows first)
Shapes      B batch, T tokens, S cached tokens, D d_model, N heads, G key-value heads, H d_head
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.kernels.attention import attend, attend_cached, cache_dtype
from llm.nn.kernels.token import Linear
from llm.nn.mixers._heads import Heads, HeadsConfig
from llm.nn.mixers.base import Context, Mixer, Site, State, Step, rows_of
from llm.nn.position.base import Position


@dataclass(frozen=True, kw_only=True)
class Config(HeadsConfig):
    """gate: every channel of what the heads read times a sigmoid of the token that reads. The other fields are those of
    `_heads.HeadsConfig`."""

    gate: bool = False


class KVState(State):
    """Keys (already rotated) and values of every token seen, at the index of its position."""

    def __init__(self, k_BGSH: Tensor, v_BGSH: Tensor) -> None:
        self.k_BGSH, self.v_BGSH = k_BGSH, v_BGSH
        self.room = k_BGSH.shape[2]
        self.lengths_B = torch.zeros(k_BGSH.shape[0], dtype=torch.long, device=k_BGSH.device)

    def append(self, k_BGTH: Tensor, v_BGTH: Tensor, step: Step) -> None:
        """Write new keys and values at the places of the step."""
        if step.place is not None:  # all rows at one place: two copies instead of an index for every number
            self.k_BGSH.narrow(2, step.place, 1).copy_(k_BGTH)
            self.v_BGSH.narrow(2, step.place, 1).copy_(v_BGTH)
        else:
            _, heads, _, width = k_BGTH.shape
            where = step.positions_BT[:, None, :, None].expand(-1, heads, -1, width)
            self.k_BGSH.scatter_(2, where, k_BGTH.to(self.k_BGSH.dtype))
            self.v_BGSH.scatter_(2, where, v_BGTH.to(self.v_BGSH.dtype))
        self.advance(step)

    def seen(self) -> tuple[Tensor, Tensor]:
        """Keys and values up to the end of the longest row, [B, G, S, H] each."""
        return self.k_BGSH.narrow(2, 0, self.longest), self.v_BGSH.narrow(2, 0, self.longest)

    def checkpoint(self) -> tuple[Tensor, int]:
        return self.lengths_B, self.longest

    def rollback(self, mark: tuple[Tensor, int]) -> None:
        self.lengths_B, self.longest = mark

    @property
    def nbytes(self) -> int:
        return self.k_BGSH.nbytes + self.v_BGSH.nbytes


class GroupedQueryAttention(Heads, Mixer[KVState]):
    """Softmax attention with n_heads query heads over n_kv_heads key-value heads."""

    takes_bias = True

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__(config, site)
        self.w_o = Linear(self.rows_q, site.d_model)
        self.w_gate = nn.Linear(site.d_model, self.rows_q, bias=False) if config.gate else None

    def finish(self, o_BTX: Tensor, x_BTD: Tensor) -> Tensor:
        """The heads, side by side, gated where the config says so, to y_BTD."""
        if self.w_gate is not None:
            o_BTX = o_BTX * torch.sigmoid(self.w_gate(x_BTD))  # (4)
        y_BTD: Tensor = self.w_o(o_BTX)  # (3)
        return y_BTD

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> Tensor:
        q, k, v = self.project(x_BTD, position, context.angles)
        bias = None
        if context.positions.dim() == 1:
            bias = position.bias(context.positions, context.positions)
        documents = context.segments_BT
        o_BNTH = attend(q, k, v, mask=lambda: context.mask_BTS, bias_NTS=bias, segments_BT=documents)  # (2)
        return self.finish(o_BNTH.transpose(1, 2).flatten(2), x_BTD)

    def init_state(self, batch: int, max_len: int, *, device: torch.device, dtype: torch.dtype) -> KVState:
        shape = (batch, self.n_kv_heads, max_len, self.d_head)
        k, v = (torch.zeros(shape, device=device, dtype=cache_dtype(device, dtype)) for _ in "kv")
        return KVState(k, v)

    def prefill(self, x_BTD: Tensor, position: Position, state: KVState, step: Step) -> Tensor:
        q, k, v = self.project(x_BTD, position, step.angles)
        state.append(k, v, step)
        o_BNTH = attend_cached(q, *state.seen(), step.mask)
        return self.finish(o_BNTH.transpose(1, 2).flatten(2), x_BTD)

    def decode(self, x_B1D: Tensor, position: Position, state: KVState, step: Step) -> Tensor:
        N, G, H = self.n_heads, self.n_kv_heads, self.d_head
        # a single token needs no transposition, and q and k are neighbours that turn by one angle
        x_BD = rows_of(x_B1D)
        qkv = self.w_qkv(x_BD).view(-1, N + 2 * G, 1, H)  # (1)
        qk, v = qkv.split_with_sizes([N + G, G], dim=1)
        if self.qk_norm:
            qk = torch.cat([self.q_norm(qk[:, :N]), self.k_norm(qk[:, N:])], dim=1)
        q, k = self.turn(qk, position, step.angles).split_with_sizes([N, G], dim=1)
        state.append(k, v, step)
        o_BN1H = attend_cached(q, *state.seen(), step.mask)  # (2)
        return self.finish(o_BN1H.view(*x_BD.shape[:-1], N * H), x_BD).view(x_B1D.shape)


build = GroupedQueryAttention
