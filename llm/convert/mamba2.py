"""mamba2: Mamba2ForCausalLM: layers of a state space with one decay a head, and nothing else.

Source      Dao & Gu 2024, arXiv 2405.21060
Differs     no limits on time steps; a length limit, which their config does not have, is written as
            max_position_embeddings
"""

from collections.abc import Mapping
from typing import Any

from llm.convert import _mamba_like as shared
from llm.convert.base import Architecture, Rename, Rule, demand

NO_LIMIT = ([0.0, {"__float__": "Infinity"}], [0.0, float("inf")])  # as newer and older files write it


class Mamba2(Architecture):
    """mamba2, no ffn, rmsnorm, no position, pre_norm."""

    model_type, causal_lm = "mamba2", "Mamba2ForCausalLM"

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = "mamba2 config.json"
        if config.get("time_step_limit", NO_LIMIT[0]) not in NO_LIMIT:
            raise ValueError(
                f"{where}: time_step_limit is {config['time_step_limit']}; only no limit has a form in this project"
            )
        inner = config["expand"] * config["hidden_size"]
        if inner != config["num_heads"] * config["head_dim"]:
            raise ValueError(f"{where}: num_heads * head_dim must be expand * hidden_size ({inner})")
        return {
            **shared.sizes_of(where, config, tied=False),
            "mixer": {
                "kind": "mamba2",
                "expand": config["expand"],
                "d_head": config["head_dim"],
                "d_state": config["state_size"],
                "n_groups": config["n_groups"],
                "conv": config["conv_kernel"],
                "chunk": config["chunk_size"],
                "norm_eps": config["layer_norm_epsilon"],
            },
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer = model["mixer"]
        demand("convert: mixer", mixer, kind="mamba2", norm_eps=model["norm"].get("eps"))
        return {
            **shared.sizes_to(model, vocab_size),
            "expand": mixer["expand"],
            "num_heads": mixer["expand"] * model["d_model"] // mixer["d_head"],
            "head_dim": mixer["d_head"],
            "state_size": mixer["d_state"],
            "n_groups": mixer["n_groups"],
            "conv_kernel": mixer["conv"],
            "chunk_size": mixer["chunk"],
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        rules = shared.outer_rules(model)
        for n in range(model["n_layers"]):
            here, there = f"blocks.{n}.mixer", f"backbone.layers.{n}.mixer"
            rules += [
                Rename(f"{here}.w_in.weight", f"{there}.in_proj.weight"),
                Rename(f"{here}.dt_bias", f"{there}.dt_bias"),
                Rename(f"{here}.log_rate", f"{there}.A_log"),
                Rename(f"{here}.skip", f"{there}.D"),
                Rename(f"{here}.gain", f"{there}.norm.weight"),
                Rename(f"{here}.w_o.weight", f"{there}.out_proj.weight"),
                *shared.conv_rules(here, there),
            ]
        return rules


build = Mamba2
