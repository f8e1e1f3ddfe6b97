"""short_conv: each channel becomes a weighted sum of its own last few inputs (causal depthwise convolution).

    y_t = b + sum_{j < W} f_j x_(t - W + 1 + j)        f_(W-1) weighs the token itself

Equations   (1)-(4) in docs/nn/kernels/short_conv.md; comments below carry the same numbers.
Source      Fu et al. 2023, H3, arXiv 2212.14052, section 3.1 (the shift layer); Gu & Dao 2023, Mamba,
            arXiv 2312.00752, section 3.4; width 4 in both and since
Cost        O(T W) per channel; decode O(W); state W - 1 inputs per channel
Differs     from torch.nn.Conv1d(groups=C): knows borders of documents; a third of its time on a CPU
Shapes      B batch, T tokens, C channels, W width of the filter
"""

from typing import Any

import torch
from torch import Tensor, nn

from llm.nn.kernels.fused import apply

WIDTH = 4


class ShortConv(nn.Module):
    """A filter of `width` taps per channel. `forward` reads whole rows, `step` goes on from a tail."""

    def __init__(self, channels: int, width: int = WIDTH, bias: bool = False) -> None:
        super().__init__()
        self.width = width
        self.filter_WC = nn.Parameter(torch.empty(width, channels))
        self.filter_WC.elementwise = True  # type: ignore[attr-defined]  # no Muon, no weight decay
        self.bias_C = nn.Parameter(torch.zeros(channels)) if bias else None
        self.finish_init()

    @torch.no_grad()
    def finish_init(self) -> None:
        """Uniform within 1 / sqrt(W), the rule of torch.nn.Conv1d, by which Mamba and its kin are trained."""
        self.filter_WC.uniform_(-(self.width**-0.5), self.width**-0.5)
        if self.bias_C is not None:
            self.bias_C.uniform_(-(self.width**-0.5), self.width**-0.5)

    def forward(self, x_BTC: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """y_BTC; a token sees inputs of its own segment only."""
        y_BTC: Tensor = apply(ShortConvFunction, x_BTC, self.filter_WC, segments_BT)
        return y_BTC if self.bias_C is None else y_BTC + self.bias_C

    def step(self, x_BTC: Tensor, tail_BWC: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y_BTC, next tail) for T more tokens of every row, after the last W - 1 inputs of it.

        An empty row has a tail of zeros. real_BT: True where a token counts; those come first in a row. The
        next tail has the dtype of the given one.
        """
        T, before = x_BTC.shape[1], self.width - 1
        seen = torch.cat([tail_BWC.to(x_BTC.dtype), x_BTC], dim=1)
        if T == 1 and real_BT is None:
            y_BTC = (seen * self.filter_WC).sum(1, keepdim=True)  # (1)
            y_BTC = y_BTC if self.bias_C is None else y_BTC + self.bias_C
        else:
            y_BTC = self(seen)[:, before:]
        return y_BTC, last_inputs(seen, before, real_BT).to(tail_BWC.dtype)

    def empty_tail(self, batch: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What `step` needs before the first token."""
        shape = (batch, self.width - 1, self.filter_WC.shape[1])
        return torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))


class ShortConvFunction(torch.autograd.Function):
    """(1) as one multiply-add over the whole row for each tap, the row shifted by the distance of the tap."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, filter_WC: Tensor, segments_BT: Tensor | None) -> Tensor:
        last, T = len(filter_WC) - 1, x_BTC.shape[1]
        same = same_document(segments_BT, last, x_BTC.dtype)
        y_BTC = x_BTC * filter_WC[last]
        for back in range(1, min(last + 1, T)):
            x = x_BTC[:, :-back] if same is None else x_BTC[:, :-back] * same[back - 1]  # (2)
            y_BTC[:, back:].addcmul_(x, filter_WC[last - back])
        ctx.save_for_backward(x_BTC, filter_WC, segments_BT)
        return y_BTC

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_BTC, filter_WC, segments_BT = ctx.saved_tensors
        [d_y] = grads
        last, T = len(filter_WC) - 1, x_BTC.shape[1]
        same = same_document(segments_BT, last, x_BTC.dtype)
        d_x, d_filter = d_y * filter_WC[last], torch.zeros_like(filter_WC)
        d_filter[last] = (d_y * x_BTC).flatten(0, 1).sum(0)
        for back in range(1, min(last + 1, T)):
            d = d_y[:, back:] if same is None else d_y[:, back:] * same[back - 1]
            d_x[:, :-back].addcmul_(d, filter_WC[last - back])  # (3) the same filter, run backwards in time
            d_filter[last - back] = (d * x_BTC[:, :-back]).flatten(0, 1).sum(0)  # (4)
        return d_x, d_filter, None


def last_inputs(seen_BTC: Tensor, before: int, real_BT: Tensor | None) -> Tensor:
    """The last `before` tokens of each row that count, [B, before, C]. seen_BTC: `before` older tokens and then the
    new ones of `real_BT`; those that count come first in a row."""
    if real_BT is None:
        return seen_BTC[:, seen_BTC.shape[1] - before :]
    index_BW = real_BT.sum(1, keepdim=True) + torch.arange(before, device=seen_BTC.device)
    return seen_BTC.gather(1, index_BW[..., None].expand(-1, -1, seen_BTC.shape[2]))


def same_document(segments_BT: Tensor | None, last: int, dtype: torch.dtype) -> list[Tensor] | None:
    """For each distance 1 .. last: 1 where a token and the one so far before it are of one document, else 0;
    [B, T - distance, 1] each. None where a row is one document."""
    if segments_BT is None:
        return None
    return [
        (segments_BT[:, back:] == segments_BT[:, :-back])[..., None].to(dtype) for back in range(1, last + 1)
    ]
