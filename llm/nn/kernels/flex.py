"""flex: PyTorch's FlexAttention under the interface of the other forms.

FlexAttention takes the rule of who sees whom as a function of two places and makes a kernel of it that skips
the blocks in which nobody sees anything. On a GPU it is compiled, once for each kind of rule; on a CPU it
runs uncompiled over the whole matrix, which is right and slow, and has no backward pass.

Equations   (1) in docs/nn/kernels/flash_attention.md: the first key a query sees
Source      Dong et al. 2024, FlexAttention, arXiv 2412.05496; torch.nn.attention.flex_attention
Cost        as flash_attention; on a CPU memory O(T^2)
Differs     nothing of one's own is computed here
Shapes      B batch, N query heads, G key-value heads, T tokens, H d_head, V width of a value
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from llm.nn.kernels.flash_attention import first_visible

_last: tuple[Any, BlockMask] | None = None


def attend_flex(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTV: Tensor,
    *,
    segments_BT: Tensor | None = None,
    added_BNTT: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal attention within documents -> [B, N, T, V]; added_BNTT: added to the scaled scores, -inf hides."""
    B, N, T, _ = q_BNTH.shape
    score = None
    if added_BNTT is not None:
        added = added_BNTT.expand(B, N, T, T)

        def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s + added[b, h, i, j]

    if not torch.is_grad_enabled():  # on a CPU it refuses inputs that could have gradients, wanted or not
        q_BNTH, k_BGTH, v_BGTV = q_BNTH.detach(), k_BGTH.detach(), v_BGTV.detach()
    mask = block_mask(B, T, segments_BT, q_BNTH.device)
    attention: Callable[..., Tensor] = compiled() if q_BNTH.is_cuda else flex_attention  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        out: Tensor = attention(
            q_BNTH, k_BGTH, v_BGTV, score_mod=score, block_mask=mask, scale=scale, enable_gqa=True
        )
    return out


def block_mask(B: int, T: int, segments_BT: Tensor | None, device: torch.device) -> BlockMask:
    """Which blocks have to be looked at; the last one made is kept, because all layers ask for the same."""
    global _last
    key = (B, T, device, segments_BT if segments_BT is None else (segments_BT, segments_BT._version))
    if _last is not None and _same(_last[0], key):
        return _last[1]
    first_BT = first_visible(T, segments_BT, None, device).expand(B, T)

    def sees(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (j >= first_BT[b, i])

    made = create_block_mask(sees, B, None, T, T, device=str(device))
    _last = key, made
    return made


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Equal keys; tensors are compared by identity and version."""
    if a[:3] != b[:3] or a[3] is None or b[3] is None:
        return a[:3] == b[:3] and a[3] is b[3]
    return a[3][0] is b[3][0] and a[3][1] == b[3][1]


@cache
def compiled() -> Callable[..., Tensor]:
    """FlexAttention as one kernel; the first call takes seconds."""
    return torch.compile(flex_attention)
