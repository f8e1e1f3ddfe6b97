"""Muon: momentum whose singular values are all pushed to about 1 before it is applied.

Equations   (1)-(6) in docs/optim/muon.md; comments below carry the same numbers.
Source      Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; the scale
            `match_rms`: Liu et al. 2025, Muon is Scalable for LLM Training, arXiv 2502.16982, eq. 4
Cost        5 (4 m^2 n + 2 m^3) operations per matrix and step, m <= n; one float32 number of state each
Differs     from the write-up: the momentum is a mean (lerp), as in torch; (5) does not see the difference.
            Matrices of equal shape are orthogonalised together; a weight with `parts` one part at a time,
            a 3-D weight (experts) one matrix at a time
Shapes      K matrices of one shape, m rows, n columns
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llm.optim.base import Optimizer, check_rates

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic that is steepest at 0 and stays within [0.68, 1.13]
_EPS = 1e-7
Scale = Literal["original", "match_rms"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """scale: `original` steps by sqrt(max(1, rows / columns)), lr about 0.02; `match_rms` by
    0.2 sqrt(max(rows, columns)), whose steps are as large as AdamW's at the same lr. ns_steps: iterations.
    """

    lr: float
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    scale: Scale = "original"
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check_rates(lr=self.lr, weight_decay=self.weight_decay, momentum=self.momentum)
        if self.ns_steps < 1:
            raise ValueError(f"ns_steps ({self.ns_steps}) must be positive")


def update(
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    parts: list[tuple[int, ...]],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    ns_steps: int,
    scale: Scale,
    weight_decay: float,
) -> None:
    """One step in place. parts: for each parameter the rows of the matrices it is made of, alike in every
    matrix of a 3-D one."""
    torch._foreach_lerp_(means, grads, 1 - momentum)  # (1)
    directions = list(torch._foreach_lerp(grads, means, momentum)) if nesterov else means  # (2)
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)  # (3)
    targets = _split(params, parts)
    for indices, batch_Kmn in _by_shape(_split(directions, parts)):
        step = lr * _scale(scale, *batch_Kmn.shape[1:])  # (4)
        orthogonal = orthogonalise(batch_Kmn, ns_steps).unbind()  # (5)
        torch._foreach_add_([targets[i] for i in indices], list(orthogonal), alpha=-step)  # (6)


def orthogonalise(batch_Kmn: Tensor, steps: int) -> Tensor:
    """Push the singular values of K matrices towards 1 by `steps` Newton-Schulz iterations, in bfloat16 (5)."""
    tall = batch_Kmn.shape[1] > batch_Kmn.shape[2]
    X = (batch_Kmn.mT if tall else batch_Kmn).bfloat16()
    X = X / torch.linalg.vector_norm(X, dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(steps):
        A = X @ X.mT
        A = torch.baddbmm(A, A, A, beta=_B, alpha=_C)
        X = torch.baddbmm(X, A, X, beta=_A)
    return X.mT if tall else X


def _split(tensors: Sequence[Tensor], parts: list[tuple[int, ...]]) -> list[Tensor]:
    """Views of all matrices: a 3-D tensor is unstacked, then every matrix is cut into its parts."""
    return [
        piece
        for tensor, rows in zip(tensors, parts, strict=True)
        for matrix in (tensor.unbind() if tensor.ndim == 3 else (tensor,))
        for piece in matrix.split(rows)
    ]


def _by_shape(matrices: list[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Matrices of one shape stacked: (their indices, [K, m, n])."""
    shapes: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(index)
    return [(indices, torch.stack([matrices[i] for i in indices])) for indices in shapes.values()]


def _scale(kind: Scale, rows: int, columns: int) -> float:
    return math.sqrt(max(1, rows / columns)) if kind == "original" else 0.2 * math.sqrt(max(rows, columns))


class Muon(Optimizer):
    """For hidden matrices only; embeddings, head and gains belong to another optimizer."""

    def __init__(
        self, config: Config, params: Sequence[nn.Parameter], *, undecayed: Collection[nn.Parameter] = ()
    ) -> None:
        for param in params:
            if param.ndim not in (2, 3):
                raise ValueError(
                    f"optimizer: muon steps matrices, found shape {list(param.shape)}; use adamw for it"
                )
            if sum(rows_of_parts(param)) != param.shape[-2]:
                raise ValueError(
                    f"optimizer: parts {rows_of_parts(param)} do not add up to {param.shape[-2]} rows"
                )
        self.config = config
        super().__init__(params, lr=config.lr, weight_decay=config.weight_decay, undecayed=undecayed)

    def update_group(self, params: list[nn.Parameter], grads: list[Tensor], group: dict[str, Any]) -> None:
        update(
            list(params),
            grads,
            self.buffers(params, "mean"),
            [rows_of_parts(param) for param in params],
            lr=group["lr"],
            momentum=self.config.momentum,
            nesterov=self.config.nesterov,
            ns_steps=self.config.ns_steps,
            scale=self.config.scale,
            weight_decay=group["weight_decay"],
        )


def rows_of_parts(param: Tensor) -> tuple[int, ...]:
    """Rows of the matrices a weight is made of: its `parts` if its module declared any, else all of them."""
    parts: tuple[int, ...] = getattr(param, "parts", (param.shape[-2],))
    return parts


build = Muon
