"""mixtral: MixtralForCausalLM: Llama whose every FFN is eight experts, of which a token uses two.

Source      Jiang et al. 2024, arXiv 2401.04088
Differs     no sliding window, no router jitter; the auxiliary loss is taken a layer, not over all layers at once
"""

from collections.abc import Mapping
from typing import Any

from llm.convert import _llama_like as shared
from llm.convert.base import Architecture, Rule, demand


class Mixtral(Architecture):
    """gqa, moe, rmsnorm, rope, pre_norm."""

    model_type, causal_lm = "mixtral", "MixtralForCausalLM"

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = "mixtral config.json"
        demand(where, config, hidden_act="silu", sliding_window=None, router_jitter_noise=0.0)
        return {
            **shared.sizes_of(config),
            "mixer": {"kind": "gqa", **shared.attention_of(where, config, qk_norm=False)},
            "ffn": {
                "kind": "moe",
                "n_experts": config["num_local_experts"],
                "n_active": config["num_experts_per_tok"],
                "d_ff": config["intermediate_size"],
                "aux_weight": config.get("router_aux_loss_coef", 0.001),
                "z_weight": 0.0,
            },
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "position": shared.rope_of(where, config),
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        ffn = model["ffn"]
        demand("convert: mixer", model["mixer"], kind="gqa", qk_norm=False)
        demand("convert: ffn", ffn, kind="moe", renormalise=True, shared_d_ff=0)
        return {
            **shared.sizes_to(model, vocab_size),
            **shared.attention_to(model["mixer"], model["d_model"]),
            "intermediate_size": shared.expert_d_ff(model["d_model"], ffn),
            "num_local_experts": ffn["n_experts"],
            "num_experts_per_tok": ffn["n_active"],
            "router_aux_loss_coef": ffn["aux_weight"],
            "rms_norm_eps": model["norm"]["eps"],
            "rope_parameters": shared.rope_to(model),
            "sliding_window": None,
            "hidden_act": "silu",
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        rules = shared.outer_rules(model)
        for layer in range(model["n_layers"]):
            here, there = f"blocks.{layer}", f"model.layers.{layer}"
            rules += shared.norm_rules(here, there)
            rules += shared.attention_rules(
                f"{here}.mixer", f"{there}.self_attn", model["mixer"], model["d_model"]
            )
            moe, n_experts = f"{there}.block_sparse_moe", model["ffn"]["n_experts"]
            rules += shared.expert_rules(f"{here}.ffn", moe, n_experts, names=shared.MIXTRAL_EXPERT)
        return rules


build = Mixtral
