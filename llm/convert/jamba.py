"""jamba: JambaForCausalLM: many layers of Mamba, a few of attention without positions, experts in every second.

Source      Lieber et al. 2024, arXiv 2403.19887; Jamba Team 2024, arXiv 2408.12570
Differs     the auxiliary loss is taken a layer, not over all layers at once
"""

import math
from collections.abc import Mapping
from typing import Any

from llm.convert import _llama_like as shared
from llm.convert._mamba_like import mamba_rules, no_positions
from llm.convert.base import Architecture, Rule, demand


def pattern(period: int, offset: int) -> list[str]:
    """`second` once in `period` layers."""
    return ["second" if turn == offset else "first" for turn in range(period)]


def period(where: str, taken: Mapping[str, Any]) -> tuple[int, int]:
    """The inverse of `pattern`. Raises ValueError for another pattern."""
    if list(taken["pattern"]).count("second") != 1:
        raise ValueError(
            f"{where}: pattern is {list(taken['pattern'])}; only one 'second' a turn has a form there"
        )
    return len(taken["pattern"]), list(taken["pattern"]).index("second")


class Jamba(Architecture):
    """hybrid (mamba, gqa), alternate (swiglu, moe), rmsnorm, no position, pre_norm."""

    model_type, causal_lm = "jamba", "JambaForCausalLM"

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = "jamba config.json"
        demand(where, config, hidden_act="silu", mamba_conv_bias=True, mamba_proj_bias=False)
        rank = config.get("mamba_dt_rank", "auto")
        mamba = {
            "kind": "mamba",
            "expand": config["mamba_expand"],
            "d_state": config["mamba_d_state"],
            "dt_rank": None if rank == "auto" else rank,
            "conv": config["mamba_d_conv"],
            "inner_norms": True,
        }
        attention = {**shared.attention_of(where, config, qk_norm=False), "kind": "gqa", "rotate": False}
        return {
            **shared.sizes_of(config),
            "mixer": {
                "kind": "hybrid",
                "pattern": pattern(config["attn_layer_period"], config["attn_layer_offset"]),
                "first": mamba,
                "second": attention,
            },
            "ffn": self.ffn(config),
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "position": {"kind": "none"},
        }

    def ffn(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Dense everywhere where a model has one expert only."""
        dense = {"kind": "swiglu", "d_ff": config["intermediate_size"]}
        if config["num_experts"] == 1:
            return dense
        moe = {
            "kind": "moe",
            "n_experts": config["num_experts"],
            "n_active": config["num_experts_per_tok"],
            "d_ff": config["intermediate_size"],
            "renormalise": False,
            "aux_weight": config.get("router_aux_loss_coef", 0.001),
            "z_weight": 0.0,
        }
        turn = pattern(config["expert_layer_period"], config["expert_layer_offset"])
        return {"kind": "alternate", "first": dense, "second": moe, "pattern": turn}

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer = model["mixer"]
        demand("convert: mixer", mixer, kind="hybrid")
        mamba, attention = mixer["first"], mixer["second"]
        demand("convert: mixer.first", mamba, kind="mamba", inner_norms=True)
        demand("convert: mixer.second", attention, kind="gqa", rotate=False, qk_norm=False, gate=False)
        width = model["d_model"] // attention["n_heads"]
        demand("convert: mixer.second", {"d_head": attention["d_head"] or width}, d_head=width)
        no_positions(model)
        turn, offset = period("convert: mixer", mixer)
        return {
            **shared.sizes_to(model, vocab_size),
            **self.ffn_to(model),
            "num_attention_heads": attention["n_heads"],
            "num_key_value_heads": attention["n_kv_heads"],
            "attn_layer_period": turn,
            "attn_layer_offset": offset,
            "mamba_expand": mamba["expand"],
            "mamba_d_state": mamba["d_state"],
            "mamba_dt_rank": mamba["dt_rank"] or math.ceil(model["d_model"] / 16),
            "mamba_d_conv": mamba["conv"],
            "mamba_conv_bias": True,
            "mamba_proj_bias": False,
            "rms_norm_eps": model["norm"]["eps"],
            "hidden_act": "silu",
        }

    def ffn_to(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `ffn`."""
        ffn = model["ffn"]
        if ffn["kind"] == "swiglu":
            return {"num_experts": 1, "num_experts_per_tok": 1, "intermediate_size": shared.d_ff(model)}
        demand("convert: ffn", ffn, kind="alternate", leading_first=0)
        dense, moe = ffn["first"], ffn["second"]
        demand("convert: ffn.first", dense, kind="swiglu")
        demand("convert: ffn.second", moe, kind="moe", renormalise=False, shared_d_ff=0)
        width = shared.d_ff({**model, "ffn": dense})
        demand("convert: ffn.second", {"d_ff": shared.expert_d_ff(model["d_model"], moe)}, d_ff=width)
        turn, offset = period("convert: ffn", ffn)
        return {
            "intermediate_size": width,
            "num_experts": moe["n_experts"],
            "num_experts_per_tok": moe["n_active"],
            "router_aux_loss_coef": moe["aux_weight"],
            "expert_layer_period": turn,
            "expert_layer_offset": offset,
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        rules, ffn = shared.outer_rules(model, norm="model.final_layernorm"), model["ffn"]
        mixers = shared.turns(model["mixer"]["pattern"], model["n_layers"])
        ffns = shared.turns(ffn.get("pattern", ["first"]), model["n_layers"])
        for n in range(model["n_layers"]):
            here, there = f"blocks.{n}", f"model.layers.{n}"
            rules += shared.norm_rules(here, there, ffn="pre_ff_layernorm")
            if mixers[n] == "first":
                rules += mamba_rules(f"{here}.mixer", f"{there}.mamba", inner_norms=True)
            else:
                names, part = (f"{here}.mixer", f"{there}.self_attn"), model["mixer"]["second"]
                rules += shared.attention_rules(*names, part, model["d_model"])
            names = f"{here}.ffn", f"{there}.feed_forward"
            if ffns[n] == "first":
                rules += shared.gated_rules(*names, shared.d_ff({**model, "ffn": ffn.get("first", ffn)}))
            else:
                rules += shared.expert_rules(*names, ffn["second"]["n_experts"], router="router")
        return rules


build = Jamba
