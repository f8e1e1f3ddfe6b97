"""deepseek_v3: DeepseekV3ForCausalLM: latent attention; experts with shared ones after a few dense layers.

Source      DeepSeek-AI 2024, arXiv 2412.19437
Differs     no rope scaling; the modules of multi-token prediction, which `transformers` does not load, are left out
"""

from collections.abc import Mapping
from typing import Any

from llm.convert import _llama_like as shared
from llm.convert.base import Architecture, Fuse, Rename, Rule, demand

LATENT_EPS = 1e-6  # of the norms inside their attention, whatever config.json says of the others


class DeepseekV3(Architecture):
    """mla, alternate (swiglu, then moe_deepseek), rmsnorm, rope with neighbouring pairs, pre_norm."""

    model_type, causal_lm = "deepseek_v3", "DeepseekV3ForCausalLM"
    latent = "latent"  # name of the matrices of latent attention within the mixer
    experts, expert_names = "mlp", shared.LLAMA_EXPERT  # what they call a layer of experts and its matrices

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = f"{self.model_type} config.json"
        demand(where, config, hidden_act="silu", attention_bias=False, rope_interleave=True)
        return {
            **shared.sizes_of(config),
            "mixer": self.mixer(config),
            "ffn": self.ffn(config),
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "position": {**shared.rope_of(where, config), "layout": "interleaved"},
        }

    def mixer(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `mixer` section."""
        return {
            "kind": "mla",
            "n_heads": config["num_attention_heads"],
            "d_nope": config["qk_nope_head_dim"],
            "d_rope": config["qk_rope_head_dim"],
            "d_value": config["v_head_dim"],
            "q_rank": config["q_lora_rank"],
            "kv_rank": config["kv_lora_rank"],
            "norm_eps": LATENT_EPS,
        }

    def ffn(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `ffn` section."""
        moe = {
            "kind": "moe_deepseek",
            "n_experts": config["n_routed_experts"],
            "n_active": config["num_experts_per_tok"],
            "n_shared": config["n_shared_experts"],
            "d_ff": config["moe_intermediate_size"],
            "n_groups": config["n_group"],
            "n_active_groups": config["topk_group"],
            "renormalise": config["norm_topk_prob"],
            "scaling": config["routed_scaling_factor"],
        }
        dense = {"kind": "swiglu", "d_ff": config["intermediate_size"]}
        leading = config["first_k_dense_replace"]
        return {
            "kind": "alternate",
            "first": dense,
            "second": moe,
            "pattern": ["second"],
            "leading_first": leading,
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        attention = self.mixer_to(model["mixer"])
        self.check_latent(model, model["mixer"])
        return {
            **shared.sizes_to(model, vocab_size),
            **attention,
            **self.ffn_to(model),
            "rms_norm_eps": model["norm"]["eps"],
            "rope_parameters": shared.rope_to(model, layout="interleaved"),
            "hidden_act": "silu",
        }

    def mixer_to(self, mixer: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `mixer`."""
        demand("convert: mixer", mixer, kind="mla")
        return {**self.latent_to(mixer), "rope_interleave": True}

    def latent_to(self, mixer: Mapping[str, Any]) -> dict[str, Any]:
        """Their keys for the fields of latent attention."""
        demand("convert: mixer", mixer, mscale=1.0, rotate=True)
        return {
            "num_attention_heads": mixer["n_heads"],
            "num_key_value_heads": mixer["n_heads"],
            "qk_nope_head_dim": mixer["d_nope"],
            "qk_rope_head_dim": mixer["d_rope"],
            "v_head_dim": mixer["d_value"],
            "q_lora_rank": mixer["q_rank"],
            "kv_lora_rank": mixer["kv_rank"],
            "attention_bias": False,
        }

    def check_latent(self, model: Mapping[str, Any], mixer: Mapping[str, Any]) -> None:
        """Raises ValueError for latent attention whose norms have another epsilon than theirs."""
        eps = model["norm"]["eps"] if mixer["norm_eps"] is None else mixer["norm_eps"]
        demand("convert: mixer", {"norm_eps": eps}, norm_eps=LATENT_EPS)

    def ffn_to(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `ffn`."""
        ffn = model["ffn"]
        demand("convert: ffn", ffn, kind="alternate", pattern=["second"])
        dense, moe = ffn["first"], ffn["second"]
        demand("convert: ffn.first", dense, kind="swiglu")
        demand("convert: ffn.second", moe, kind="moe_deepseek", scores="sigmoid")
        return {
            "intermediate_size": shared.d_ff({**model, "ffn": dense}),
            "first_k_dense_replace": ffn["leading_first"],
            "n_routed_experts": moe["n_experts"],
            "num_experts_per_tok": moe["n_active"],
            "n_shared_experts": moe["n_shared"],
            "moe_intermediate_size": shared.expert_d_ff(model["d_model"], moe),
            "n_group": moe["n_groups"],
            "topk_group": moe["n_active_groups"],
            "norm_topk_prob": moe["renormalise"],
            "routed_scaling_factor": moe["scaling"],
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        rules = shared.outer_rules(model)
        for layer in range(model["n_layers"]):
            here, there = f"blocks.{layer}", f"model.layers.{layer}"
            rules += shared.norm_rules(here, there)
            rules += self.mixer_rules(f"{here}.mixer", f"{there}.self_attn", model["mixer"])
            rules += self.ffn_rules(f"{here}.ffn", there, model, layer)
        return rules

    def ffn_rules(self, here: str, there: str, model: Mapping[str, Any], layer: int) -> list[Rule]:
        """A dense layer, or experts, their bias and the shared ones."""
        dense, moe = model["ffn"]["first"], model["ffn"]["second"]
        if layer < model["ffn"]["leading_first"]:
            return shared.gated_rules(here, f"{there}.mlp", shared.d_ff({**model, "ffn": dense}))
        mlp, width = f"{there}.{self.experts}", moe["n_shared"] * shared.expert_d_ff(model["d_model"], moe)
        return [
            *shared.expert_rules(here, mlp, moe["n_experts"], names=self.expert_names),
            Rename(f"{here}.bias_E", f"{mlp}.gate.e_score_correction_bias"),
            *shared.gated_rules(f"{here}.shared", f"{mlp}.shared_experts", width),
        ]

    def mixer_rules(self, here: str, there: str, mixer: Mapping[str, Any]) -> list[Rule]:
        """Queries, latent and rotated key are one matrix here."""
        rows_q = mixer["n_heads"] * (mixer["d_nope"] + mixer["d_rope"])
        latent = (f"{there}.kv_a_proj_with_mqa.weight", mixer["kv_rank"] + mixer["d_rope"])
        first = ("q_a_proj", mixer["q_rank"]) if mixer["q_rank"] else ("q_proj", rows_q)
        rules: list[Rule] = [
            Fuse(f"{here}.{self.latent}.w_in.weight", [(f"{there}.{first[0]}.weight", first[1]), latent]),
            Rename(f"{here}.{self.latent}.kv_norm.gain", f"{there}.kv_a_layernorm.weight"),
            Rename(f"{here}.{self.latent}.w_kv.weight", f"{there}.kv_b_proj.weight"),
            Rename(f"{here}.w_o.weight", f"{there}.o_proj.weight"),
        ]
        if mixer["q_rank"]:
            rules.append(Rename(f"{here}.{self.latent}.q_norm.gain", f"{there}.q_a_layernorm.weight"))
            rules.append(Rename(f"{here}.{self.latent}.w_q.weight", f"{there}.q_b_proj.weight"))
        return rules


build = DeepseekV3
