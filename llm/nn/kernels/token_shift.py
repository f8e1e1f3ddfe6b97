"""token_shift: a token beside the one before it, mixed channel by channel.

    m_t = p_t + (x_t - p_t) * share,    p_t = x_(t-1), and 0 at the first token of a document

Equations   (1)-(2) in docs/nn/kernels/token_shift.md; comments below carry the same numbers.
Source      Peng et al. 2023, RWKV, arXiv 2305.13048, section 3.1
Cost        O(D) per token and mixture; state one input of D numbers
Differs     from RWKV-7's code, which stores 1 - share
Shapes      B batch, T tokens, D d_model, M mixtures
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.nn.kernels.short_conv import last_inputs, same_document


def previous(x_BTD: Tensor, segments_BT: Tensor | None = None) -> Tensor:
    """p_BTD, the input one token earlier, of the same document (1)."""
    same = same_document(segments_BT, 1, x_BTD.dtype)
    earlier = x_BTD[:, :-1] if same is None else x_BTD[:, :-1] * same[0]
    return F.pad(earlier, (0, 0, 1, 0))


def step(x_BTD: Tensor, last_B1D: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(p_BTD, next last_B1D) for T more tokens of every row after `last_B1D`, which is 0 for an empty row.

    real_BT: True where a token counts; those come first in a row. `last` keeps its dtype.
    """
    seen = torch.cat([last_B1D.to(x_BTD.dtype), x_BTD], dim=1)
    return seen[:, :-1], last_inputs(seen, 1, real_BT).to(last_B1D.dtype)


def empty(batch: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What `step` needs before the first token, in float32 or finer."""
    return torch.zeros(batch, 1, width, device=device, dtype=torch.promote_types(dtype, torch.float32))


def mix(x_BTD: Tensor, previous_BTD: Tensor, share_MD: Tensor) -> tuple[Tensor, ...]:
    """M mixtures of a token and the one before it (2), [B, T, D] each. share_MD: 1 takes the token itself."""
    change = x_BTD - previous_BTD
    return tuple(torch.addcmul(previous_BTD, change, share) for share in share_MD.to(x_BTD.dtype).unbind())
