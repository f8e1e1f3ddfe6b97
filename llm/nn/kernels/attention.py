"""attention: softmax(q k^T / sqrt(H) + mask) v, for training rows and for cached decoding.

Equations   (2) in docs/nn/mixers/gqa.md
Shapes      B batch, N query heads, G key-value heads, T queries, S keys, H d_head
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.position.base import Position


def attend(q_BNTH: Tensor, k_BGTH: Tensor, v_BGTH: Tensor, *, mask: Tensor | None, bias_NTS: Tensor | None) -> Tensor:
    """Causal attention over one row's own tokens -> [B, N, T, H].

    mask: additive [B, 1, T, T] that already holds the causal part (`segment_mask`), or None for plain causal.
    """
    if bias_NTS is not None:
        T = q_BNTH.shape[2]
        causal = torch.full((T, T), float("-inf"), dtype=q_BNTH.dtype, device=q_BNTH.device).triu(1)
        mask = (causal if mask is None else mask) + bias_NTS.to(q_BNTH.dtype)
    return F.scaled_dot_product_attention(
        q_BNTH, k_BGTH, v_BGTH, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )


def attend_cached(q_BNTH: Tensor, k_BGSH: Tensor, v_BGSH: Tensor, positions_BT: Tensor, position: Position) -> Tensor:
    """New queries at `positions_BT` over cached keys whose index is their position -> [B, N, T, H]."""
    B, N, T, H = q_BNTH.shape
    G, S = k_BGSH.shape[1], k_BGSH.shape[2]
    index_S = torch.arange(S, device=q_BNTH.device)
    q = q_BNTH.reshape(B, G, N // G * T, H)  # query heads of a group are neighbours
    scores = (q @ k_BGSH.transpose(-1, -2)).view(B, N, T, S) / math.sqrt(H)
    hidden_BTS = index_S > positions_BT[:, :, None]
    bias = position.bias(positions_BT[0], index_S)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    scores = scores.masked_fill(hidden_BTS[:, None], float("-inf"))
    probs = torch.softmax(scores, dim=-1, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    return (probs.to(q.dtype).view(B, G, N // G * T, S) @ v_BGSH).view(B, N, T, H)
