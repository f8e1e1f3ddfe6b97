"""BatchNorm: normalise each channel over all tokens of the batch. Not causal: here to show why nobody does it.

Equations   (1)-(3) in docs/nn/norm/batchnorm.md; comments below carry the same numbers.
Source      Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 1; why it fails for text: Shen et al. 2020,
            PowerNorm, arXiv 2003.07845, section 3
Cost        O(D) per token; 2 D parameters and 2 D running statistics
Differs     from the paper: nothing; padding is counted like any token
Shapes      ... any leading dimensions, D channels, M numbers of one channel
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.nn.kernels.fused import high
from llm.nn.norm.base import Norm


@dataclass(frozen=True, kw_only=True)
class Config:
    """eps: added to the variance. momentum: how far the running statistics move towards those of a batch."""

    eps: float = 1.0e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum ({self.momentum}) must be in (0, 1]")


class BatchNorm(Norm):
    """y = gain * (x - mean) / sqrt(var + eps) + bias: statistics of the batch in training, running ones after it."""

    causal = False
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.config = config
        self.gain = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(high(x.dtype))
        mean, var = self.batch_statistics(wide) if self.training else (self.running_mean, self.running_var)
        scale = self.gain * torch.rsqrt(var + self.config.eps)  # (1)
        return torch.addcmul(self.bias - mean * scale, wide, scale).to(x.dtype)

    def batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (2) of every channel; the running ones move, with the unbiased variance (3).

        Raises:
            ValueError: a single token, which has no variance.
        """
        flat_MD = x.flatten(0, -2)
        M = len(flat_MD)
        if M < 2:
            raise ValueError(
                "model.norm: batchnorm needs more than one token while it is trained; use eval mode"
            )
        mean = flat_MD.mean(0)
        var = (flat_MD - mean).square().mean(0)  # (2)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.config.momentum)  # (3)
            self.running_var.lerp_((var * M / (M - 1)).to(self.running_var.dtype), self.config.momentum)
        return mean, var


build = BatchNorm
