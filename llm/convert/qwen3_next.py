"""qwen3_next: Qwen3NextForCausalLM: three layers of Gated DeltaNet to one of gated attention, experts in every layer.

Source      Qwen Team 2025, Qwen3-Next; gate: Qiu et al. 2025, arXiv 2505.06708; linear layers: arXiv 2412.06464
Differs     every norm here has gains of 1 + w, theirs after a linear layer w: it is stored less 1; no module of
            multi-token prediction, which `transformers` does not load; the auxiliary loss is taken a layer
Shapes      N heads, H width of a head, G key-value heads or key heads, R value heads of a key head, K and V widths
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from llm.convert import _llama_like as shared
from llm.convert._mamba_like import channels, taps
from llm.convert.base import Architecture, Deal, Rename, Rule, demand

FRACTION = 0.25  # of a head that is rotated, in a config.json that does not say
TYPES = {"first": "linear_attention", "second": "full_attention"}


class Qwen3Next(Architecture):
    """hybrid (gated_delta, gqa with qk_norm and gate), moe with a gated shared expert, rmsnorm_unit_offset, rope."""

    model_type, causal_lm = "qwen3_next", "Qwen3NextForCausalLM"
    shared: Mapping[str, Any] = {"norm": "rmsnorm_unit_offset", "residual": "pre_norm"}

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = "qwen3_next config.json"
        demand(where, config, hidden_act="silu", decoder_sparse_step=1, mlp_only_layers=[])
        every = config.get("full_attention_interval", 4)
        types = config.get("layer_types") or shared.turns(
            [TYPES["first"]] * (every - 1) + [TYPES["second"]], config["num_hidden_layers"]
        )
        return {
            **shared.sizes_of(config),
            "mixer": {
                "kind": "hybrid",
                "pattern": shared.pattern_of(where, {**config, "layer_types": types}, *TYPES.values()),
                "first": {
                    "kind": "gated_delta",
                    "n_heads": config["linear_num_key_heads"],
                    "n_value_heads": config["linear_num_value_heads"],
                    "d_key": config["linear_key_head_dim"],
                    "d_value": config["linear_value_head_dim"],
                    "conv": config["linear_conv_kernel_dim"],
                },
                "second": {"kind": "gqa", **shared.attention_of(where, config, qk_norm=True), "gate": True},
            },
            "ffn": {
                "kind": "moe",
                "n_experts": config["num_experts"],
                "n_active": config["num_experts_per_tok"],
                "d_ff": config["moe_intermediate_size"],
                "renormalise": config["norm_topk_prob"],
                "aux_weight": config.get("router_aux_loss_coef", 0.001),
                "z_weight": 0.0,
                "shared_d_ff": config["shared_expert_intermediate_size"],
            },
            "norm": {"kind": "rmsnorm_unit_offset", "eps": config["rms_norm_eps"]},
            "position": shared.rope_of(where, config, fraction=FRACTION),
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer, ffn, D = model["mixer"], model["ffn"], model["d_model"]
        demand("convert: mixer", mixer, kind="hybrid")
        first, second = mixer["first"], mixer["second"]
        demand("convert: mixer.first", first, kind="gated_delta", negative=False)
        demand("convert: mixer.second", second, kind="gqa", qk_norm=True, gate=True)
        demand("convert: ffn", ffn, kind="moe", shared_gate=True)
        if not ffn["shared_d_ff"]:
            raise ValueError(
                "convert: ffn.shared_d_ff is 0; the other format has a shared expert in every layer"
            )
        heads, value_heads, d_key, d_value = delta_sizes(first, D)
        position = {**shared.rope_to(model), "partial_rotary_factor": model["position"]["fraction"]}
        return {
            **shared.sizes_to(model, vocab_size),
            **shared.attention_to({**second, "gate": False}, D),
            "layer_types": [TYPES[part] for part in shared.turns(mixer["pattern"], model["n_layers"])],
            "linear_num_key_heads": heads,
            "linear_num_value_heads": value_heads,
            "linear_key_head_dim": d_key,
            "linear_value_head_dim": d_value,
            "linear_conv_kernel_dim": first["conv"],
            "moe_intermediate_size": shared.expert_d_ff(D, ffn),
            "shared_expert_intermediate_size": ffn["shared_d_ff"],
            "intermediate_size": shared.expert_d_ff(D, ffn),  # of dense layers, of which there are none
            "num_experts": ffn["n_experts"],
            "num_experts_per_tok": ffn["n_active"],
            "norm_topk_prob": ffn["renormalise"],
            "router_aux_loss_coef": ffn["aux_weight"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rms_norm_eps": model["norm"]["eps"],
            "rope_parameters": position,
            "hidden_act": "silu",
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        rules, mixer, ffn = shared.outer_rules(model, gain="offset"), model["mixer"], model["ffn"]
        for layer, part in enumerate(shared.turns(mixer["pattern"], model["n_layers"])):
            here, there = f"blocks.{layer}", f"model.layers.{layer}"
            rules += shared.norm_rules(here, there, gain="offset")
            if part == "first":
                rules += delta_rules(
                    f"{here}.mixer", f"{there}.linear_attn", mixer["first"], model["d_model"]
                )
            else:
                rules += gated_rules(f"{here}.mixer", f"{there}.self_attn", mixer["second"], model["d_model"])
            one = f"{there}.mlp.shared_expert"
            rules += shared.expert_rules(f"{here}.ffn", f"{there}.mlp", ffn["n_experts"])
            rules += shared.gated_rules(f"{here}.ffn.shared", one, ffn["shared_d_ff"])
            rules.append(Rename(f"{here}.ffn.shared.w_open.weight", f"{one}_gate.weight"))
        return rules


def gated_rules(here: str, there: str, mixer: Mapping[str, Any], d_model: int) -> list[Rule]:
    """Attention: their q_proj has for each head the rows of its query, then those of its gate."""
    N, G = mixer["n_heads"], mixer["n_kv_heads"]
    H = mixer["d_head"] or d_model // N
    deal = Deal(
        blocks={"q": (N, H), "gate": (N, H), "k": (G, H), "v": (G, H)},
        here={f"{here}.w_qkv.weight": ["q", "k", "v"], f"{here}.w_gate.weight": ["gate"]},
        there={f"{there}.q_proj.weight": ["q", "gate"]} | {f"{there}.{x}_proj.weight": [x] for x in "kv"},
    )
    norms = [Rename(f"{here}.{x}_norm.offset", f"{there}.{x}_norm.weight") for x in "qk"]
    return [deal, *norms, Rename(f"{here}.w_o.weight", f"{there}.o_proj.weight")]


def delta_rules(here: str, there: str, mixer: Mapping[str, Any], d_model: int) -> list[Rule]:
    """Gated DeltaNet: for each key head its query, its key, the values and the gates of its value heads; likewise
    shares and decays."""
    G, value_heads, K, V = delta_sizes(mixer, d_model)
    R = value_heads // G
    wide = Deal(
        blocks={"q": (G, K), "k": (G, K), "v": (G, R * V), "gate": (G, R * V)},
        here={f"{here}.w_qkv.weight": ["q", "k", "v"], f"{here}.w_gate.weight": ["gate"]},
        there={f"{there}.in_proj_qkvz.weight": ["q", "k", "v", "gate"]},
    )
    small = Deal(
        blocks={"beta": (G, R), "decay": (G, R)},
        here={f"{here}.w_{name}.weight": [name] for name in ("beta", "decay")},
        there={f"{there}.in_proj_ba.weight": ["beta", "decay"]},
    )
    return [
        wide,
        small,
        Rename(f"{here}.conv.filter_WC", f"{there}.conv1d.weight", taps, channels),
        Rename(f"{here}.dt_bias", f"{there}.dt_bias"),
        Rename(f"{here}.log_rate", f"{there}.A_log"),
        Rename(
            f"{here}.o_norm.offset",
            f"{there}.norm.weight",
            partial(torch.sub, other=1.0),
            partial(torch.add, other=1.0),
        ),
        Rename(f"{here}.w_o.weight", f"{there}.out_proj.weight"),
    ]


def delta_sizes(mixer: Mapping[str, Any], d_model: int) -> tuple[int, int, int, int]:
    """Key heads, value heads, width of a key and of a value, also where the config leaves them to the default."""
    heads = mixer["n_heads"]
    d_key = mixer["d_key"] or d_model // heads
    return heads, mixer["n_value_heads"] or heads, d_key, mixer["d_value"] or d_key


build = Qwen3Next
