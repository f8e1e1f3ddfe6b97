"""MoE of DeepSeek: shared experts, sigmoid scores, and a bias on the choice that balances without a gradient.

Equations   (1)-(7) in docs/nn/ffn/moe_deepseek.md; comments below carry the same numbers.
Source      DeepSeek-V3, arXiv 2412.19437, eq. 12-20; bias: Wang et al. 2024, arXiv 2408.15664; shared experts:
            DeepSeekMoE, arXiv 2401.06066, section 3.2; `softmax` scores: DeepSeek-V2, arXiv 2405.04434, section 2.2
Cost        6 D F (K + shared) + 2 D E floating-point operations per token forward; 3 D F (E + shared) + D E parameters
Differs     from the paper: a sequence of the balance loss (7) is a row, packed or not
Shapes      B batch, T tokens, N = B T, K n_active, E n_experts, G n_groups, D d_model, F d_ff
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from llm.nn.ffn._experts import Expert, Experts, Load, check_counts, expert_width, router_logits
from llm.nn.ffn.base import FFN, FFNOutput
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """n_active: routed experts of a token, out of its n_active_groups best groups; n_shared: experts every token uses
    besides; d_ff: width of one expert; null: those of a token together are as wide as a dense layer.

    scores, renormalise: sigmoid and true in V3, softmax and false in V2. scaling: of the routed sum (V3: 2.5,
    V2: 16). bias_rate: step of the bias (2); 0 switches balancing by bias off. balance_weight: of the loss (7).
    """

    n_experts: int = 16
    n_active: int = 3
    n_shared: int = 1
    d_ff: int | None = None
    n_groups: int = 1
    n_active_groups: int = 1
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    renormalise: bool = True
    scaling: float = 1.0
    bias_rate: float = 0.001
    balance_weight: float = 0.0001
    router_std: float = 0.02

    def __post_init__(self) -> None:
        check_counts(n_experts=self.n_experts, n_active=self.n_active, d_ff=self.d_ff)
        for name in ("n_shared", "bias_rate", "balance_weight", "router_std"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 0")
        if self.n_groups < 1 or self.n_experts % self.n_groups:
            raise ValueError(f"n_groups ({self.n_groups}) must divide n_experts ({self.n_experts})")
        if not 1 <= self.n_active_groups <= self.n_groups:
            raise ValueError(
                f"n_active_groups ({self.n_active_groups}) must be 1 to n_groups ({self.n_groups})"
            )
        within_reach = self.n_active_groups * (self.n_experts // self.n_groups)
        if self.n_active > within_reach:
            raise ValueError(
                f"n_active ({self.n_active}) experts, but n_active_groups ({self.n_active_groups}) hold {within_reach}"
            )


class DeepSeekMoE(FFN):
    """y = shared(x) + scaling * sum over the chosen experts of w_e FFN_e(x)."""

    bias_E: Tensor

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.config = config
        d_ff = config.d_ff or expert_width(site.d_model, config.n_active + config.n_shared)
        self.w_router = nn.Linear(site.d_model, config.n_experts, bias=False)
        self.w_router.exact = True  # type: ignore[assignment]  # no quantizer: a router rounded is another router
        self.experts = Experts(config.n_experts, site.d_model, d_ff)
        self.shared = Expert(site.d_model, config.n_shared * d_ff) if config.n_shared else None
        self.register_buffer("bias_E", torch.zeros(config.n_experts))  # no parameter: it follows a rule
        self.load = Load(config.n_experts)

    def finish_init(self) -> None:
        """A router that starts small sends tokens everywhere."""
        self.w_router.weight.normal_(0.0, self.config.router_std)

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])  # one token of one row may come as a vector
        logits_NE = router_logits(x_ND, self.w_router.weight)
        scores_NE = logits_NE.sigmoid() if self.config.scores == "sigmoid" else logits_NE.softmax(-1)  # (1)
        experts_NK = self.choose(scores_NE.detach())
        weights_NK = scores_NE.gather(1, experts_NK)  # without the bias
        if self.config.renormalise:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)  # (5)
        y_ND = self.experts(x_ND, experts_NK, weights_NK * self.config.scaling)
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)  # (6)
        self.load.add(experts_NK)
        aux = self.balance_loss(scores_NE.view(*x_BTD.shape[:-1], -1)) if self.training else None
        return FFNOutput(y_ND.view_as(x_BTD), aux)

    def choose(self, scores_NE: Tensor) -> Tensor:
        """The K experts of each token: best by biased score, within the best groups."""
        config = self.config
        biased_NE = scores_NE + self.bias_E  # (2)
        if config.n_active_groups < config.n_groups:
            biased_NGe = biased_NE.unflatten(1, (config.n_groups, -1))
            best_two = min(2, biased_NGe.shape[2]) if config.scores == "sigmoid" else 1
            groups_NG = biased_NGe.topk(best_two).values.sum(-1)  # (3)
            chosen_NG = torch.zeros_like(groups_NG, dtype=torch.bool)
            chosen_NG = chosen_NG.scatter(1, groups_NG.topk(config.n_active_groups).indices, value=True)
            biased_NE = biased_NGe.masked_fill(~chosen_NG.unsqueeze(-1), float("-inf")).flatten(1)
        return biased_NE.topk(config.n_active).indices  # (4)

    def balance_loss(self, scores_BTE: Tensor) -> Tensor:
        """The loss of each row by itself (7), meaned over the rows; padding counts."""
        E, K = self.config.n_experts, self.config.n_active
        best_BTK = scores_BTE.detach().topk(K).indices
        chosen_BTE = torch.zeros_like(scores_BTE).scatter(-1, best_BTK, 1.0)
        share_BTE = scores_BTE / scores_BTE.sum(-1, keepdim=True)
        loss_B = (chosen_BTE.mean(-2) * share_BTE.mean(-2)).sum(-1) * E / K
        total: Tensor = self.config.balance_weight * loss_B.mean()
        return total

    def before_step(self) -> None:
        self.load.forget()

    @torch.no_grad()
    def after_step(self) -> dict[str, float]:
        """Move the bias one step (2) by the load of the whole optimizer step; a frozen router keeps its bias."""
        if self.w_router.weight.requires_grad:
            load_E = self.load.count_E.to(self.bias_E.dtype)
            self.bias_E += self.config.bias_rate * (load_E.mean() - load_E).sign()
        facts = self.load.facts()
        self.load.forget()
        return facts


build = DeepSeekMoE
