"""banded: softmax attention in which a query sees the window before it, and a few first tokens of its document.

The row is cut into blocks of one window; the queries of a block read the keys of their own block and of the one
before, and a mask trims the corners. No T x T matrix exists.

    keys     [ block b-1 | block b ]          query i of block b sees  i - W < j <= i
    queries              [ block b ]

Equations   (1)-(2) in docs/nn/kernels/banded.md; comments below carry the same numbers.
Source      Beltagy et al. 2020, Longformer, arXiv 2004.05150, section 3.1 (chunks of the band)
Cost        O(T W N H) time, O(T W N) memory
Shapes      B batch, N query heads, G key-value heads, R = N / G, T tokens, H d_head, W window, C blocks,
            F first tokens of a document that everybody sees
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class First:
    """Keys and values of the first tokens of each query's document, [B, G, T, F, H]; seen_BTF: which of them
    the query sees. Those inside the window must not be marked: a key counts once."""

    k_BGTFH: Tensor
    v_BGTFH: Tensor
    seen_BTF: Tensor


def banded_attention(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTH: Tensor,
    window: int,
    *,
    segments_BT: Tensor | None = None,
    bias_NWS: Tensor | None = None,
    first: First | None = None,
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
    out = _with_first(scores, q, values, first) if first else torch.softmax(scores, dim=-1) @ values  # (2)
    return out.flatten(3, 4)[:, :, :, :T].reshape(B, N, T, H)


def _with_first(scores: Tensor, q: Tensor, values: Tensor, first: First) -> Tensor:
    """One softmax over the band and the first tokens."""
    C, W = scores.shape[3:5]
    k_first, v_first = _blocks_of(first.k_BGTFH, C, W), _blocks_of(first.v_BGTFH, C, W)  # [B, G, C, W, F, H]
    extra = torch.einsum("bgrcwh,bgcwfh->bgrcwf", q, k_first) / math.sqrt(q.shape[-1])
    seen = F.pad(first.seen_BTF, (0, 0, 0, C * W - first.seen_BTF.shape[1])).unflatten(1, (C, W))
    extra = extra.masked_fill(~seen[:, None, None], float("-inf"))
    probs = torch.softmax(torch.cat([scores, extra], dim=-1), dim=-1)
    near, far = probs.split([scores.shape[-1], extra.shape[-1]], dim=-1)
    return near @ values + torch.einsum("bgrcwf,bgcwfh->bgrcwh", far, v_first)


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


def _blocks_of(x: Tensor, C: int, W: int) -> Tensor:
    """[B, G, T, F, H] -> [B, G, C, W, F, H]."""
    return F.pad(x, (0, 0, 0, 0, 0, C * W - x.shape[2])).unflatten(2, (C, W))


def _pairs(x_BGTH: Tensor, C: int, W: int) -> Tensor:
    """Each block with the one before it, [B, G, C, 2W, H]; zeros before the first."""
    x = F.pad(x_BGTH, (0, 0, W, C * W - x_BGTH.shape[2])).unflatten(2, (C + 1, W))
    return torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3)


def gather_first(x_BGTH: Tensor, starts_BT: Tensor, count: int) -> Tensor:
    """For each token the vectors at places start .. start + count - 1 of its document, [B, G, T, F, H].

    Places beyond the row repeat its last token; whoever uses them has to mark what is seen.
    """
    T = x_BGTH.shape[2]
    where_BTF = (starts_BT[..., None] + torch.arange(count, device=starts_BT.device)).clamp_max(T - 1)
    rows = torch.arange(len(x_BGTH), device=x_BGTH.device)[:, None, None]
    return x_BGTH.transpose(1, 2)[rows, where_BTF].permute(0, 3, 1, 2, 4)
