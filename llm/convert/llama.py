"""llama: LlamaForCausalLM, the decoder of this project's defaults without QK-norm.

Source      Touvron et al. 2023, arXiv 2302.13971; Grattafiori et al. 2024, arXiv 2407.21783
Differs     no biases, no rope scaling
"""

from collections.abc import Mapping
from typing import Any

from llm.convert import _llama_like as shared
from llm.convert.base import Architecture, Rule, demand


class Llama(Architecture):
    """gqa, swiglu, rmsnorm, rope, pre_norm."""

    model_type, causal_lm = "llama", "LlamaForCausalLM"
    qk_norm = False

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = f"{self.model_type} config.json"
        demand(where, config, hidden_act="silu", mlp_bias=False)
        return {
            **shared.sizes_of(config),
            "mixer": self.mixer(config),
            "ffn": {"kind": "swiglu", "d_ff": config["intermediate_size"]},
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "position": shared.rope_of(where, config),
        }

    def mixer(self, config: Mapping[str, Any]) -> dict[str, Any]:
        fields = shared.attention_of(f"{self.model_type} config.json", config, qk_norm=self.qk_norm)
        return {"kind": "gqa", **fields}

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        demand("convert: ffn", model["ffn"], kind="swiglu")
        demand("convert: mixer", model["mixer"], kind="gqa", qk_norm=self.qk_norm)
        return {
            **shared.sizes_to(model, vocab_size),
            **shared.attention_to(model["mixer"], model["d_model"]),
            "intermediate_size": shared.d_ff(model),
            "rms_norm_eps": model["norm"]["eps"],
            "rope_parameters": shared.rope_to(model),
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
            rules += shared.gated_rules(f"{here}.ffn", f"{there}.mlp", shared.d_ff(model))
        return rules


build = Llama
