"""mamba: MambaForCausalLM: layers of a selective state space, and nothing else.

Source      Gu & Dao 2023, arXiv 2312.00752
Differs     nothing; a length limit, which their config does not have, is written as max_position_embeddings
"""

import math
from collections.abc import Mapping
from typing import Any

from llm.convert import _mamba_like as shared
from llm.convert.base import Architecture, Rule, demand


class Mamba(Architecture):
    """mamba, no ffn, rmsnorm, no position, pre_norm."""

    model_type, causal_lm = "mamba", "MambaForCausalLM"

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        rank = config.get("time_step_rank", "auto")
        return {
            **shared.sizes_of("mamba config.json", config, tied=True),
            "mixer": {
                "kind": "mamba",
                "expand": config["expand"],
                "d_state": config["state_size"],
                "dt_rank": None if rank == "auto" else rank,
                "conv": config["conv_kernel"],
            },
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer = model["mixer"]
        demand("convert: mixer", mixer, kind="mamba", inner_norms=False)
        return {
            **shared.sizes_to(model, vocab_size),
            "expand": mixer["expand"],
            "state_size": mixer["d_state"],
            "time_step_rank": mixer["dt_rank"] or math.ceil(model["d_model"] / 16),
            "conv_kernel": mixer["conv"],
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        rules = shared.outer_rules(model)
        for n in range(model["n_layers"]):
            here, there = f"blocks.{n}.mixer", f"backbone.layers.{n}.mixer"
            rules += shared.mamba_rules(here, there, inner_norms=False)
        return rules


build = Mamba
