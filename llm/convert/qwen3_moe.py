"""qwen3_moe: Qwen3MoeForCausalLM: Qwen3 with many small experts in every layer.

Source      Qwen Team 2025, arXiv 2505.09388
Differs     experts in every layer (decoder_sparse_step 1, no mlp_only_layers), no sliding window
"""

from collections.abc import Mapping
from typing import Any

from llm.convert import _llama_like as shared
from llm.convert.base import Architecture, Rule, demand


class Qwen3Moe(Architecture):
    """gqa with qk_norm, moe, rmsnorm, rope, pre_norm."""

    model_type, causal_lm = "qwen3_moe", "Qwen3MoeForCausalLM"

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = "qwen3_moe config.json"
        demand(
            where,
            config,
            hidden_act="silu",
            use_sliding_window=False,
            decoder_sparse_step=1,
            mlp_only_layers=[],
        )
        return {
            **shared.sizes_of(config),
            "mixer": {"kind": "gqa", **shared.attention_of(where, config, qk_norm=True)},
            "ffn": {
                "kind": "moe",
                "n_experts": config.get("num_experts") or config["num_local_experts"],
                "n_active": config["num_experts_per_tok"],
                "d_ff": config["moe_intermediate_size"],
                "renormalise": config["norm_topk_prob"],
                "aux_weight": config.get("router_aux_loss_coef", 0.001),
                "z_weight": 0.0,
            },
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "position": shared.rope_of(where, config),
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        ffn = model["ffn"]
        demand("convert: mixer", model["mixer"], kind="gqa", qk_norm=True)
        demand("convert: ffn", ffn, kind="moe", shared_d_ff=0)
        return {
            **shared.sizes_to(model, vocab_size),
            **shared.attention_to(model["mixer"], model["d_model"]),
            "moe_intermediate_size": shared.expert_d_ff(model["d_model"], ffn),
            "intermediate_size": shared.expert_d_ff(model["d_model"], ffn),
            "num_experts": ffn["n_experts"],
            "num_local_experts": ffn["n_experts"],
            "num_experts_per_tok": ffn["n_active"],
            "norm_topk_prob": ffn["renormalise"],
            "router_aux_loss_coef": ffn["aux_weight"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rms_norm_eps": model["norm"]["eps"],
            "rope_parameters": shared.rope_to(model),
            "use_sliding_window": False,
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
            rules += shared.expert_rules(f"{here}.ffn", f"{there}.mlp", model["ffn"]["n_experts"])
        return rules


build = Qwen3Moe
