"""banded: softmax attention in which a query sees the window before it, and a few marked tokens from further back.

The row is cut into blocks of one window; the queries of a block read the keys of their own block and of the one
before, and a mask trims the corners. No T x T matrix exists.

    keys     [ block b-1 | block b ]  [ table ]     query i of block b sees  i - W < j <= i
    queries              [ block b ]                and of the table what lies before its window

Equations   (1)-(3) in docs/nn/kernels/banded.md; comments below carry the same numbers.
Source      Beltagy et al. 2020, Longformer, arXiv 2004.05150, section 3.1 (chunks of the band)
Cost        O(T (W + M) N H) time, O(T (W + M) N) memory
Shapes      B batch, N query heads, G key-value heads, R = N / G, T tokens, H d_head, W window, C blocks,
            M marked tokens of a row
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """Keys and values of the marked tokens of a row, [B, G, M, H]; seen_BTM: which of them a query sees. Those inside
    its window must not be seen here: a key counts once."""

    k_BGMH: Tensor
    v_BGMH: Tensor
    seen_BTM: Tensor


def banded_attention(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTH: Tensor,
    window: int,
    *,
    segments_BT: Tensor | None = None,
    bias_NWS: Tensor | None = None,
    table: Table | None = None,
) -> Tensor:
    """Query i over keys j of its own segment with 0 <= i - j < window -> [B, N, T, H].

    bias_NWS: added to the scores, [N, W, 2 W] for queries W .. 2 W - 1 over keys 0 .. 2 W - 1 (it may depend on
    the distance only). A query that would see nothing (padding) sees itself.
    """
    (B, N, T, H), G, W = q_BNTH.shape, k_BGTH.shape[1], window
    C = -(-T // W)
    q = _blocks(q_BNTH.view(B, G, N // G, T, H), C, W)  # [B, G, R, C, W, H]
    k, v = _pairs(k_BGTH, C, W), _pairs(v_BGTH, C, W)  # [B, G, C, 2W, H]
    scores = q @ k.unsqueeze(2).mT / math.sqrt(H)  # (1)
    if bias_NWS is not None:
        scores = scores + bias_NWS.view(G, N // G, 1, W, 2 * W).to(scores.dtype)
    allowed = band(T, W, q_BNTH.device, segments_BT)  # [1 or B, C, W, 2W]
    scores = scores.masked_fill(~allowed[:, None, None], float("-inf"))
    values = v.unsqueeze(2)
    out = _with_table(scores, q, values, table) if table else torch.softmax(scores, dim=-1) @ values  # (2)
    return out.flatten(3, 4)[:, :, :, :T].reshape(B, N, T, H)


def _with_table(scores: Tensor, q: Tensor, values: Tensor, table: Table) -> Tensor:
    """One softmax over the band and the table (3)."""
    C, W = scores.shape[3:5]
    flat = q.flatten(2, 4)  # [B, G, R C W, H]: all queries of a group meet the same table
    extra = (flat @ table.k_BGMH.mT / math.sqrt(q.shape[-1])).unflatten(2, q.shape[2:5])
    seen = F.pad(table.seen_BTM, (0, 0, 0, C * W - table.seen_BTM.shape[1])).unflatten(1, (C, W))
    extra = extra.masked_fill(~seen[:, None, None], float("-inf"))
    probs = torch.softmax(torch.cat([scores, extra], dim=-1), dim=-1)
    near, far = probs.split([scores.shape[-1], extra.shape[-1]], dim=-1)
    return near @ values + (far.flatten(2, 4) @ table.v_BGMH).unflatten(2, q.shape[2:5])


def band(T: int, W: int, device: torch.device, segments_BT: Tensor | None) -> Tensor:
    """True where a query of a block may see a key of its pair of blocks, [1 or B, C, W, 2 W]."""
    C = -(-T // W)
    query_CW1 = torch.arange(C * W, device=device).view(C, W, 1)
    key_C12W = torch.arange(2 * W, device=device) + (torch.arange(C, device=device).view(C, 1, 1) - 1) * W
    allowed = (key_C12W <= query_CW1) & (key_C12W > query_CW1 - W) & (key_C12W >= 0)
    if segments_BT is None:
        return allowed[None]
    own = F.pad(segments_BT, (0, C * W - T)).unflatten(1, (C, W))
    of_keys = _pairs(segments_BT[:, None, :, None], C, W)[:, 0, :, :, 0]  # [B, C, 2W]
    same = (own[..., :, None] == of_keys[..., None, :]) & (own[..., :, None] != 0)
    return (allowed & same) | (key_C12W == query_CW1)


def _blocks(x: Tensor, C: int, W: int) -> Tensor:
    """[..., T, H] -> [..., C, W, H], zeros after the end."""
    return F.pad(x, (0, 0, 0, C * W - x.shape[-2])).unflatten(-2, (C, W))


def _pairs(x_BGTH: Tensor, C: int, W: int) -> Tensor:
    """Each block with the one before it, [B, G, C, 2W, H]; zeros before the first."""
    x = F.pad(x_BGTH, (0, 0, W, C * W - x_BGTH.shape[2])).unflatten(2, (C + 1, W))
    return torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3)


def marked(flags_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Where the flagged tokens of each row stand, in order: (index_BM, real_BM).

    M is the largest number of them in a row, at least 1. Slots beyond those of a row are not real: they name
    other tokens.
    """
    count_B = flags_BT.sum(1)
    M = max(1, int(count_B.max()))  # the only number the host must know
    index_BM = (~flags_BT).long().argsort(dim=1, stable=True)[:, :M]
    return index_BM, torch.arange(M, device=flags_BT.device) < count_B[:, None]


def table_of_row(
    k_BGTH: Tensor, v_BGTH: Tensor, index_BM: Tensor, real_BM: Tensor, starts_BT: Tensor, window: int
) -> Table:
    """The marked tokens of whole rows. starts_BT: where the document of each token begins."""
    edge_T1 = torch.arange(starts_BT.shape[1], device=starts_BT.device)[:, None] - window
    place_B1M = index_BM[:, None]
    seen_BTM = (place_B1M <= edge_T1) & (place_B1M >= starts_BT[..., None]) & real_BM[:, None]
    return Table(take(k_BGTH, index_BM), take(v_BGTH, index_BM), seen_BTM)


def take(x_BGSH: Tensor, index_BM: Tensor) -> Tensor:
    """The vectors at some places of each row, [B, G, M, H]."""
    _, G, _, H = x_BGSH.shape
    return x_BGSH.gather(2, index_BM[:, None, :, None].expand(-1, G, -1, H))
