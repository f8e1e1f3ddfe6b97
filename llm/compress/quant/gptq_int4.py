"""GPTQ int4: quantise one column after another and let the columns still open make up for each error.

Equations   (1)-(5) in docs/compress/quant/gptq_int4.md; comments below carry the same numbers.
Source      Frantar et al. 2022, GPTQ, arXiv 2210.17323, algorithm 1; act-order from the authors' code
Cost        O(M I^2) for the Hessian of M tokens, O(I^3 + O I^2) for a layer; 4 bits a weight, 16 a group
Differs     from the paper: symmetric levels (no zero point); with `act_order` the scales of the groups are
            fixed before the first column, so that no column-to-group map need be stored; float64
Shapes      O output features, I input features, M calibration tokens, J columns of a block
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm.compress.quant.base import (
    QMAX,
    Quantizer,
    QuantLinear,
    empty_layers,
    expand,
    group_width,
    symmetric_scales,
)
from llm.nn.model import Decoder
from llm.params import from_dict


@dataclass(frozen=True, kw_only=True)
class Config:
    """What may be chosen.

    group_size: columns that share a scale, or what divides. damping: share of the mean Hessian diagonal that
    is added to it. act_order: columns with large inputs first. block_size: columns between two big updates
    (speed only). clip_steps: per cent of shrinking of the scales tried.
    """

    group_size: int = 128
    damping: float = 0.01
    act_order: bool = True
    block_size: int = 128
    clip_steps: int = 0

    def __post_init__(self) -> None:
        if self.group_size < 0:
            raise ValueError(f"group_size ({self.group_size}) must not be negative; 0 = one scale a row")
        if self.damping <= 0:
            raise ValueError(f"damping ({self.damping}) must be positive; 0.01 is the paper's")
        if self.block_size < 1:
            raise ValueError(f"block_size ({self.block_size}) must be positive")
        if not 0 <= self.clip_steps < 100:
            raise ValueError(f"clip_steps ({self.clip_steps}) must be from 0 to 99")


class GPTQInt4(Quantizer):
    """Round to nearest with feedback: least squares on the layer's real inputs, column by column."""

    bits = 4

    def __init__(self, config: Config) -> None:
        self.config = config
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def observe(self, name: str, x_MI: Tensor) -> None:
        product, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (product + (x_MI.T @ x_MI).double(), count + len(x_MI))

    def stats(self, name: str) -> Tensor | None:
        """The Hessian 2 X^T X / M of the layer's squared output error (1), float64 [I, I]; then forgets it."""
        if name not in self._sums:
            return None
        product, count = self._sums.pop(name)
        return 2 * product / count

    def quantize(self, linear: nn.Linear, stats: Tensor | None = None) -> QuantLinear:
        """Without stats the Hessian is the identity, and the result that of round-to-nearest."""
        I, config = linear.in_features, self.config
        group = group_width(I, config.group_size)
        W_OI = linear.weight.detach().double()
        H_II = torch.eye(I, dtype=torch.float64, device=W_OI.device) if stats is None else stats.to(W_OI)
        codes_OI, scales_ON = gptq(W_OI, H_II, group, config)
        out = QuantLinear.like(linear, bits=self.bits, group=group)
        out.store(codes_OI, scales_ON)
        return out


def gptq(W_OI: Tensor, H_II: Tensor, group: int, config: Config) -> tuple[Tensor, Tensor]:
    """Codes [O, I] and scales [O, N] of algorithm 1. Raises ValueError when H cannot be factored."""
    W, H = W_OI.clone(), H_II.clone()
    dead = H.diagonal() == 0  # inputs that are always 0: any weight will do
    H[dead, dead] = 1
    W[:, dead] = 0
    order = torch.arange(len(H), device=W.device)
    scales = None
    if config.act_order:
        scales = symmetric_scales(W, bits=4, group=group, clip_steps=config.clip_steps)
        order = torch.argsort(H.diagonal(), descending=True, stable=True)
        W, H = W[:, order], H[order][:, order]
    U = inverse_factor(H, config.damping)
    wide = None if scales is None else expand(scales, group, len(order))[:, order]
    codes, scales_found = _columns(W, U, group, config, wide)
    return codes[:, torch.argsort(order)], scales_found if scales is None else scales


def inverse_factor(H_II: Tensor, damping: float) -> Tensor:
    """Upper triangular U with H^-1 = U^T U, of the damped H (2)."""
    damped = H_II + damping * H_II.diagonal().mean() * torch.eye(
        len(H_II), dtype=H_II.dtype, device=H_II.device
    )
    lower, info = torch.linalg.cholesky_ex(damped)
    if int(info):
        raise ValueError(
            "gptq_int4: the Hessian is not positive definite (calibration data too few or not finite); "
            f"raise quantize.gptq_int4.damping (now {damping}) or quantize.calibration_rows"
        )
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def _columns(W: Tensor, U: Tensor, group: int, config: Config, wide: Tensor | None) -> tuple[Tensor, Tensor]:
    """The column loop. wide: the scale of every column if fixed beforehand, else found group by group."""
    I, qmax = W.shape[1], QMAX[4]
    codes, found = torch.zeros_like(W), []
    for begin in range(0, I, config.block_size):
        end = min(begin + config.block_size, I)
        E_OJ = torch.zeros_like(W[:, begin:end])
        for j in range(begin, end):
            if wide is None and j % group == 0:
                found.append(_group_scale(W, U, E_OJ, (begin, j, end), group, config.clip_steps))
            scale = found[-1] if wide is None else wide[:, j]
            codes[:, j] = (W[:, j] / scale).round().clamp(-qmax, qmax)
            error = (W[:, j] - codes[:, j] * scale) / U[j, j]  # (3)
            W[:, j:end] -= error[:, None] * U[j, j:end]  # (4)
            E_OJ[:, j - begin] = error
        W[:, end:] -= E_OJ @ U[begin:end, end:]  # (5)
    return codes, torch.stack(found, dim=1) if found else torch.empty(len(W), 0)


def _group_scale(
    W: Tensor, U: Tensor, E_OJ: Tensor, place: tuple[int, int, int], group: int, clip_steps: int
) -> Tensor:
    """Scale [O] of the group that starts at column j, from weights as they stand now.

    Columns beyond the block's end still lack the corrections of this block (5); they are applied to a copy,
    so that the result does not depend on the block size.
    """
    begin, j, end = place
    now = W[:, j : j + group].clone()
    if j + group > end:
        now[:, end - j :] -= E_OJ[:, : j - begin] @ U[begin:j, end : j + group]
    return symmetric_scales(now, bits=4, group=now.shape[1], clip_steps=clip_steps)[:, 0]


def prepare(model: Decoder, quantization: dict[str, Any]) -> None:
    """Replace the layers of `model` by the empty ones its stored weights fit into."""
    config = from_dict(Config, quantization.get("config", {}), "config.json.quantization.config")
    empty_layers(model, bits=GPTQInt4.bits, group_size=config.group_size)


build = GPTQInt4
