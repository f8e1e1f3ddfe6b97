"""MoE: a softmax router sends each token to its best few experts; an auxiliary loss keeps them equally busy.

Equations   (1)-(5) in docs/nn/ffn/moe.md; comments below carry the same numbers.
Source      Shazeer et al. 2017, arXiv 1701.06538; loss: Fedus et al. 2021, Switch Transformer, arXiv 2101.03961,
            eq. 4-6; z-loss: Zoph et al. 2022, ST-MoE, arXiv 2202.08906, eq. 5; defaults: Mixtral, arXiv 2401.04088;
            gated shared expert: Qwen2, arXiv 2407.10671, section 2.2.2
Cost        6 D F K + 2 D E floating-point operations per token forward; 3 D F E + D E parameters
Differs     from Switch: K experts in place of one, no capacity, f sums to 1 whatever K is
Shapes      B batch, T tokens, N = B T, K n_active, E n_experts, D d_model, F d_ff
"""

from dataclasses import dataclass

from torch import Tensor, nn

from llm.nn.ffn._experts import Expert, Experts, Load, check_counts, count, expert_width, router_logits
from llm.nn.ffn.base import FFN, FFNOutput
from llm.nn.mixers.base import Site


@dataclass(frozen=True, kw_only=True)
class Config:
    """n_active: experts a token uses; d_ff: width of one expert; null: n_active of them are as wide as a dense layer.

    renormalise: the weights of a token sum to 1 (Mixtral, Qwen3; not OLMoE). aux_weight, z_weight: of the two
    losses. shared_d_ff: width of an expert that every token uses, 0 for none; shared_gate: behind a sigmoid.
    """

    n_experts: int = 8
    n_active: int = 2
    d_ff: int | None = None
    renormalise: bool = True
    aux_weight: float = 0.01
    z_weight: float = 0.001
    shared_d_ff: int = 0
    shared_gate: bool = True
    router_std: float = 0.02

    def __post_init__(self) -> None:
        check_counts(n_experts=self.n_experts, n_active=self.n_active, d_ff=self.d_ff)
        for name in ("aux_weight", "z_weight", "shared_d_ff", "router_std"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 0")


class MoE(FFN):
    """y = sum over the best K experts of p_e FFN_e(x)."""

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.config = config
        d_ff = config.d_ff or expert_width(site.d_model, config.n_active)
        self.w_router = nn.Linear(site.d_model, config.n_experts, bias=False)
        self.w_router.exact = True  # type: ignore[assignment]  # no quantizer: a router rounded is another router
        self.experts = Experts(config.n_experts, site.d_model, d_ff)
        self.shared = None
        if config.shared_d_ff:
            self.shared = Expert(site.d_model, config.shared_d_ff, gated=config.shared_gate)
        self.load = Load(config.n_experts)

    def finish_init(self) -> None:
        """A router that starts small sends tokens everywhere."""
        self.w_router.weight.normal_(0.0, self.config.router_std)

    def forward(self, x_BTD: Tensor) -> FFNOutput:
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])  # one token of one row may come as a vector
        logits_NE = router_logits(x_ND, self.w_router.weight)
        probs_NE = logits_NE.softmax(-1)  # (1)
        weights_NK, experts_NK = probs_NE.topk(self.config.n_active)
        if self.config.renormalise:
            weights_NK = weights_NK / weights_NK.sum(-1, keepdim=True)  # (2)
        y_ND = self.experts(x_ND, experts_NK, weights_NK)  # (3)
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)
        self.load.add(experts_NK)
        aux = self.losses(logits_NE, probs_NE, experts_NK) if self.training else None
        return FFNOutput(y_ND.view_as(x_BTD), aux)

    def losses(self, logits_NE: Tensor, probs_NE: Tensor, experts_NK: Tensor) -> Tensor:
        """Balance (4) and size of the logits (5), weighted; over all tokens of the pass, padding included."""
        E = self.config.n_experts
        frac_E = count(experts_NK, E).to(probs_NE.dtype) / experts_NK.numel()
        balance = E * (frac_E * probs_NE.mean(0)).sum()  # (4)
        size = logits_NE.logsumexp(-1).square().mean()  # (5)
        total: Tensor = self.config.aux_weight * balance + self.config.z_weight * size
        return total

    def before_step(self) -> None:
        self.load.forget()

    def after_step(self) -> dict[str, float]:
        facts = self.load.facts()
        self.load.forget()
        return facts


build = MoE
