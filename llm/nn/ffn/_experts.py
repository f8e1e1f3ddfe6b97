"""experts: many gated layers of one shape, of which each token uses a few; no token is ever dropped.

    tokens x choices -> sort by expert -> one segment an expert -> W_gate_up, SiLU gate, W_down -> back -> weighted sum

Equations   (1)-(3) in docs/nn/ffn/_experts.md; comments below carry the same numbers.
Source      dropless grouped execution: Gale et al. 2022, MegaBlocks, arXiv 2211.15841
Cost        6 D F K floating-point operations per token forward; 3 D F E parameters
Differs     from the paper: dense products of segments in place of a block-sparse kernel
Shapes      N tokens of all rows, K choices of a token, E experts, D d_model, F d_ff, M = N K rows of all segments
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.activation import silu_mul
from llm.nn.ffn.base import gated_width
from llm.nn.kernels.fused import high


class Experts(nn.Module):
    """E SwiGLU layers; their weights are stacks of matrices [E, out, in]."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.w_gate_up = nn.Parameter(torch.empty(n_experts, 2 * d_ff, d_model))
        self.w_gate_up.parts = (d_ff, d_ff)  # type: ignore[attr-defined]  # for Muon, in every expert
        self.w_down = nn.Parameter(torch.empty(n_experts, d_model, d_ff))
        for weight in (self.w_gate_up, self.w_down):  # as nn.Linear starts; the model's init replaces it
            nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)

    def forward(self, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """Sum over the K chosen experts of each token, weighted."""
        K = experts_NK.shape[1]
        order_M = experts_NK.flatten().argsort(stable=True)  # (1)
        ends_E = count(experts_NK, self.n_experts).cumsum(0)
        y_MD = self.run(x_ND.index_select(0, order_M // K), ends_E)  # (2)
        back_M = torch.empty_like(order_M).index_copy_(
            0, order_M, torch.arange(len(order_M), device=order_M.device)
        )
        y_NKD = y_MD.index_select(0, back_M).unflatten(0, (-1, K))
        return (y_NKD * weights_NK.to(y_NKD.dtype).unsqueeze(-1)).sum(1)  # (3)

    def run(self, x_MD: Tensor, ends_E: Tensor) -> Tensor:
        """Every expert on the rows of its segment (2)."""
        return per_segment(silu_mul(per_segment(x_MD, self.w_gate_up, ends_E)), self.w_down, ends_E)

    def apart(self) -> "SeparateExperts":
        """The same experts as layers of their own, for what works on layers: a quantizer."""
        return SeparateExperts(self)


class SeparateExperts(Experts):
    """Experts that are layers each; twice the calls, and the names of the weights are others. Not for training."""

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        self.n_experts = experts.n_experts
        self.each = nn.ModuleList()
        for gate_up, down in zip(experts.w_gate_up, experts.w_down, strict=True):
            expert = Expert(*down.shape)
            expert.w_gate_up.weight, expert.w_down.weight = nn.Parameter(gate_up), nn.Parameter(down)
            self.each.append(expert)

    def run(self, x_MD: Tensor, ends_E: Tensor) -> Tensor:
        pieces = zip(x_MD.split(lengths(ends_E)), self.each, strict=True)
        return torch.cat([expert(x) for x, expert in pieces if len(x)])

    def apart(self) -> "SeparateExperts":
        return self


def per_segment(x_MI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Rows up to ends_E[0] times the first matrix, from there up to ends_E[1] times the second, and so on."""
    if x_MI.is_cuda and x_MI.dtype == torch.bfloat16 and not (x_MI.shape[1] % 8 or weight_EOI.shape[1] % 8):
        return in_one_call(x_MI, weight_EOI, ends_E)  # a loop would have to ask the device where segments end
    return one_by_one(x_MI, weight_EOI, ends_E)


def one_by_one(x_MI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """A product for each segment that is not empty; the matrices of empty ones get a gradient of zeros."""
    pieces = zip(x_MI.split(lengths(ends_E)), weight_EOI.unbind(), strict=True)
    return torch.cat([x @ weight.t() for x, weight in pieces if len(x)])


def lengths(ends_E: Tensor) -> list[int]:
    """Lengths of the segments that end there."""
    sizes: list[int] = torch.diff(ends_E, prepend=ends_E.new_zeros(1)).tolist()
    return sizes


def in_one_call(x_MI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """The same through PyTorch's grouped product, which takes no float64."""
    return F.grouped_mm(x_MI, weight_EOI.transpose(1, 2), offs=ends_E.to(torch.int32))


class Expert(nn.Module):
    """One SwiGLU layer: the shared expert, which every token uses; `gated`: times sigmoid(w x) (Qwen2-MoE)."""

    def __init__(self, d_model: int, d_ff: int, *, gated: bool = False) -> None:
        super().__init__()
        self.w_gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.w_gate_up.weight.parts = (d_ff, d_ff)  # type: ignore[attr-defined]  # for Muon
        self.w_down = nn.Linear(d_ff, d_model, bias=False)
        self.w_open = nn.Linear(d_model, 1, bias=False) if gated else None
        if self.w_open is not None:
            self.w_open.exact = True  # type: ignore[assignment]  # no quantizer: one row, and it scales all the others

    def forward(self, x_ND: Tensor) -> Tensor:
        y_ND: Tensor = self.w_down(silu_mul(self.w_gate_up(x_ND)))
        return y_ND if self.w_open is None else torch.sigmoid(self.w_open(x_ND)) * y_ND


class Load(nn.Module):
    """How many tokens each expert got in the forward passes of a step, all micro-batches together.

    Passes without gradients (evaluation, generation) and those of a model in eval mode are not counted.
    """

    count_E: Tensor

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.register_buffer("count_E", torch.zeros(n_experts, dtype=torch.long), persistent=False)

    def add(self, experts_NK: Tensor) -> None:
        """Count the choices of a forward pass."""
        if self.training and torch.is_grad_enabled():
            self.count_E = self.count_E + count(experts_NK, len(self.count_E))

    def forget(self) -> None:
        """Start again from zero."""
        self.count_E = torch.zeros_like(self.count_E)

    def facts(self) -> dict[str, float]:
        """`expert_load_max`: tokens of the busiest expert over the mean, 1 where all are equally busy;
        `expert_idle_frac`: share of the experts without any token. Empty where nothing was counted."""
        total = int(self.count_E.sum())
        if total == 0:
            return {}
        busiest = int(self.count_E.max()) * len(self.count_E) / total
        idle = float((self.count_E == 0).double().mean())
        return {"expert_load_max": busiest, "expert_idle_frac": idle}


def count(experts_NK: Tensor, n_experts: int) -> Tensor:
    """How often each expert was chosen, [E]; integers, so that the order of adding does not matter."""
    chosen_M = experts_NK.flatten()
    zeros_E = torch.zeros(n_experts, dtype=torch.long, device=chosen_M.device)
    return zeros_E.scatter_add_(0, chosen_M, torch.ones_like(chosen_M))


def router_logits(x_ND: Tensor, weight_ED: Tensor) -> Tensor:
    """x W^T in float32 at least: half a bfloat16 unit would change which expert is best."""
    wide = high(x_ND.dtype)
    return F.linear(x_ND.to(wide), weight_ED.to(wide))


def expert_width(d_model: int, n_active: int) -> int:
    """Hidden width of an expert where n_active of them together are as wide as one dense gated layer."""
    return max(8, round(gated_width(d_model) / n_active / 8) * 8)


def check_counts(*, n_experts: int, n_active: int, d_ff: int | None) -> None:
    """Raises ValueError for numbers of experts that make no mixture."""
    if n_experts < 1:
        raise ValueError(f"n_experts ({n_experts}) must be positive")
    if not 1 <= n_active <= n_experts:
        raise ValueError(f"n_active ({n_active}) must be between 1 and n_experts ({n_experts})")
    if d_ff is not None and d_ff < 1:
        raise ValueError(f"d_ff ({d_ff}) must be positive")
