"""kimi_linear: KimiLinearForCausalLM: three layers of KDA to one of latent attention, nowhere a position, experts.

Source      Kimi Team 2025, arXiv 2510.26692
Differs     a tied head is written as a tensor of its own: their class has no tied one
Shapes      N linear_num_heads, W taps of the convolution, C channels
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llm.convert import _llama_like as shared
from llm.convert._mamba_like import channels, no_positions, taps
from llm.convert.base import Fuse, Rename, Rule, Weights, demand
from llm.convert.deepseek_v3 import DeepseekV3

TYPES = {"first": "linear_attention", "second": "full_attention"}
KEYS = {  # of DeepSeek-V3's config.json: the same in theirs
    "max_position_embeddings": "model_max_length",
    "n_routed_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_shared_experts": "num_shared_experts",
    "n_group": "num_expert_group",
    "norm_topk_prob": "moe_renormalize",
}
KDA = {
    "w_decay_down": "f_a_proj",
    "w_decay_up": "f_b_proj",
    "w_gate_down": "g_a_proj",
    "w_gate_up": "g_b_proj",
    "w_beta": "b_proj",
    "w_o": "o_proj",
}
DENSE = re.compile(r"\.block_sparse_moe(?=\.\w+_proj\.weight$)")  # how `transformers` saves a dense layer


class KimiLinear(DeepseekV3):
    """hybrid (kda, mla without rotation), alternate (swiglu, then moe_deepseek), rmsnorm, no position, pre_norm."""

    model_type, causal_lm = "kimi_linear", "KimiLinearForCausalLM"
    experts, expert_names = "block_sparse_moe", shared.MIXTRAL_EXPERT

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where, heads = "kimi_linear config.json", config["num_attention_heads"]
        demand(where, config, hidden_act="silu", attention_bias=False, tie_word_embeddings=False)
        demand(where, config, mla_use_nope=True, moe_layer_freq=1, moe_router_activation_func="sigmoid")
        demand(where, {"num_key_value_heads": config["num_key_value_heads"]}, num_key_value_heads=heads)
        known = {**config, **{key: config[name] for key, name in KEYS.items()}}
        known["first_k_dense_replace"] = leading_dense(where, config)
        linear, types = linear_layers(where, config)
        return {
            **shared.sizes_of(known),
            "mixer": {
                "kind": "hybrid",
                "pattern": shared.pattern_of(where, {**config, "layer_types": types}, *TYPES.values()),
                "first": linear,
                "second": {**self.mixer(known), "rotate": False},
            },
            "ffn": self.ffn(known),
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "position": {"kind": "none"},
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer, n_layers = model["mixer"], model["n_layers"]
        demand("convert: mixer", mixer, kind="hybrid")
        demand("convert: mixer.second", mixer["second"], kind="mla", rotate=False)
        no_positions(model)
        self.check_latent(model, mixer["second"])
        found = {
            **shared.sizes_to(model, vocab_size),
            **self.latent_to({**mixer["second"], "rotate": True}),
            **linear_to(mixer["first"], model["d_model"]),
            **self.ffn_to(model),
            "tie_word_embeddings": False,
            "layer_types": [TYPES[part] for part in shared.turns(mixer["pattern"], n_layers)],
            "rms_norm_eps": model["norm"]["eps"],
            "hidden_act": "silu",
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),  # theirs are beyond our ids
        }
        dense = found.pop("first_k_dense_replace")
        found["mlp_layer_types"] = ["dense" if layer < dense else "sparse" for layer in range(n_layers)]
        return {KEYS.get(key, key): value for key, value in found.items()}

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        mixer, head = model["mixer"], "embedding" if model["tied_head"] else "head"
        rules = shared.outer_rules({**model, "tied_head": True})
        rules.append(Rename(f"{head}.weight", "lm_head.weight", back=torch.clone))
        for layer, part in enumerate(shared.turns(mixer["pattern"], model["n_layers"])):
            here, there = f"blocks.{layer}", f"model.layers.{layer}"
            names = f"{here}.mixer", f"{there}.self_attn"
            rules += shared.norm_rules(here, there)
            if part == "first":
                rules += kda_rules(*names, mixer["first"], model["d_model"])
            else:
                rules += self.mixer_rules(*names, mixer["second"])
            rules += self.ffn_rules(f"{here}.ffn", there, model, layer)
        return rules

    def received(self, config: Mapping[str, Any], weights: Weights) -> Weights:
        """A dense layer is called `mlp` in their releases, but saved as experts are by `transformers`."""
        names = {name: DENSE.sub(".mlp", name) for name in weights}
        return {name if names[name] in weights else names[name]: weights[name] for name in weights}


def leading_dense(where: str, config: Mapping[str, Any]) -> int:
    """How many layers come before those with experts. Raises ValueError where dense ones come later too."""
    if "mlp_layer_types" not in config:
        return int(config["first_k_dense_replace"])
    types = config["mlp_layer_types"]
    dense = types.count("dense")
    wanted = ["dense"] * dense + ["sparse"] * (config["num_hidden_layers"] - dense)
    demand(where, {"mlp_layer_types": types}, mlp_layer_types=wanted)
    return int(dense)


def linear_layers(where: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The `kda` mixer, and the type of every layer. Their releases have a section for both, counted from 1;
    `transformers` has keys, and a pattern where none is given that no release has: here it must be given."""
    section, n_layers = config.get("linear_attn_config"), config["num_hidden_layers"]
    if section is None:
        fields = [config[f"linear_{key}"] for key in ("num_heads", "head_dim", "conv_kernel_dim")]
        types = config["layer_types"]
    else:
        fields = [section[key] for key in ("num_heads", "head_dim", "short_conv_kernel_size")]
        full = section["full_attn_layers"]
        if sorted([*full, *section["kda_layers"]]) != list(range(1, n_layers + 1)):
            raise ValueError(f"{where}: linear_attn_config does not name each of {n_layers} layers once")
        types = [TYPES["second" if n in full else "first"] for n in range(1, n_layers + 1)]
    n_heads, width, conv = fields
    return {"kind": "kda", "n_heads": n_heads, "d_key": width, "conv": conv}, types


def linear_to(mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
    """Their keys for the `kda` mixer: one width for keys, values and the two inner maps."""
    where, width = "convert: mixer.first", mixer["d_key"] or d_model // mixer["n_heads"]
    demand(where, mixer, kind="kda", negative=False)
    found = {
        "n_value_heads": mixer["n_value_heads"] or mixer["n_heads"],
        "d_value": mixer["d_value"] or width,
    }
    demand(where, found, n_value_heads=mixer["n_heads"], d_value=width)
    demand(where, {"rank": mixer["rank"] or width}, rank=width)
    return {
        "linear_num_heads": mixer["n_heads"],
        "linear_head_dim": width,
        "linear_conv_kernel_dim": mixer["conv"],
    }


def kda_rules(here: str, there: str, mixer: Mapping[str, Any], d_model: int) -> list[Rule]:
    """A layer of KDA; queries, keys and values are one matrix here, and so are their filters."""
    rows = mixer["n_heads"] * (mixer["d_key"] or d_model // mixer["n_heads"])
    rate_shape = (1, 1, mixer["n_heads"], 1)
    return [
        Fuse(f"{here}.w_qkv.weight", [(f"{there}.{x}_proj.weight", rows) for x in "qkv"]),
        Fuse(f"{here}.conv.filter_WC", [(f"{there}.{x}_conv1d.weight", rows) for x in "qkv"], taps, channels),
        *[Rename(f"{here}.{o}.weight", f"{there}.{t}.weight") for o, t in KDA.items()],
        Rename(f"{here}.dt_bias", f"{there}.dt_bias"),
        Rename(
            f"{here}.log_rate", f"{there}.A_log", Tensor.flatten, partial(torch.reshape, shape=rate_shape)
        ),
        Rename(f"{here}.o_norm.gain", f"{there}.o_norm.weight"),
    ]


build = KimiLinear
