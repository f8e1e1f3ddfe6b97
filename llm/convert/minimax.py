"""minimax: MiniMaxForCausalLM: lightning attention and softmax attention in turn, experts in every layer.

Source      MiniMax 2025, arXiv 2501.08313
Differs     one weight of the residual stream for all layers and one for what they add, as in their checkpoints; the
            whole head is rotated; the auxiliary loss is taken a layer, not over all layers at once
Shapes      N heads, C block_size
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llm.convert import _llama_like as shared
from llm.convert.base import Architecture, Implied, Rename, Rule, demand

LIGHTNING_EPS = 1e-6  # of the norm inside lightning attention, whatever config.json says of the others
THETA = 1e6  # of the rotation in a config.json that does not say
FACTORS = ("full_attn", "linear_attn", "mlp")
LIGHTNING = {
    "w_qkv.weight": "qkv_proj",
    "w_gate.weight": "output_gate",
    "w_o.weight": "out_proj",
    "o_norm.gain": "norm",
}


class MiniMax(Architecture):
    """hybrid (lightning, gqa), moe, rmsnorm, rope, scaled."""

    model_type, causal_lm = "minimax", "MiniMaxForCausalLM"
    shared: Mapping[str, Any] = {"norm": "rmsnorm", "residual": "scaled"}

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where, n_layers = "minimax config.json", config["num_hidden_layers"]
        demand(where, config, hidden_act="silu", sliding_window=None, router_jitter_noise=0.0)
        fields = shared.attention_of(where, config, qk_norm=False)
        position = shared.rope_of(where, config, theta=THETA)
        demand(where, {"partial_rotary_factor": position["fraction"]}, partial_rotary_factor=1.0)
        types = config.get("layer_types") or shared.turns(["full_attention", "linear_attention"], n_layers)
        lightning = {
            "kind": "lightning",
            "n_heads": fields["n_heads"],
            "d_head": fields["d_head"],
            "chunk": config.get("block_size", 256),
            "norm_eps": LIGHTNING_EPS,
        }
        return {
            **shared.sizes_of(config),
            "mixer": {
                "kind": "hybrid",
                "pattern": shared.pattern_of(
                    where, {**config, "layer_types": types}, "linear_attention", "full_attention"
                ),
                "first": lightning,
                "second": {"kind": "gqa", **fields},
            },
            "ffn": {
                "kind": "moe",
                "n_experts": config["num_local_experts"],
                "n_active": config["num_experts_per_tok"],
                "d_ff": config["intermediate_size"],
                "aux_weight": config.get("router_aux_loss_coef", 0.001),
                "z_weight": 0.0,
            },
            "norm": {"kind": "rmsnorm", "eps": config["rms_norm_eps"]},
            "residual": {"kind": "scaled"}
            | {name: factor(where, config, name) for name in ("alpha", "beta")},
            "position": position,
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer, ffn, residual = model["mixer"], model["ffn"], model["residual"]
        demand("convert: mixer", mixer, kind="hybrid")
        first, second = mixer["first"], mixer["second"]
        demand("convert: mixer.first", first, kind="lightning")
        demand("convert: mixer.second", second, kind="gqa", qk_norm=False)
        demand("convert: ffn", ffn, kind="moe", renormalise=True, shared_d_ff=0)
        eps = model["norm"]["eps"] if first["norm_eps"] is None else first["norm_eps"]
        demand("convert: mixer.first", {"norm_eps": eps}, norm_eps=LIGHTNING_EPS)
        heads = shared.attention_to(second, model["d_model"])
        width = first["d_head"] or model["d_model"] // first["n_heads"]
        demand(
            "convert: mixer.first",
            {**first, "d_head": width},
            n_heads=second["n_heads"],
            d_head=heads["head_dim"],
        )
        names = {"first": "linear_attention", "second": "full_attention"}
        alpha = (2 * model["n_layers"]) ** 0.25 if residual["alpha"] is None else residual["alpha"]
        return {
            **shared.sizes_to(model, vocab_size),
            **heads,
            **{f"{part}_alpha_factor": alpha for part in FACTORS},
            **{f"{part}_beta_factor": residual["beta"] for part in FACTORS},
            "layer_types": [names[part] for part in shared.turns(mixer["pattern"], model["n_layers"])],
            "block_size": first["chunk"],
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
        rules, mixer = shared.outer_rules(model), model["mixer"]
        for n, part in enumerate(shared.turns(mixer["pattern"], model["n_layers"])):
            here, there = f"blocks.{n}", f"model.layers.{n}"
            names = f"{here}.mixer", f"{there}.self_attn"
            rules += shared.norm_rules(here, there)
            if part == "first":
                rules += lightning_rules(*names, mixer["first"], n, model["n_layers"])
            else:
                rules += shared.attention_rules(*names, mixer["second"], model["d_model"])
            moe, n_experts = f"{there}.block_sparse_moe", model["ffn"]["n_experts"]
            rules += shared.expert_rules(f"{here}.ffn", moe, n_experts, names=shared.MIXTRAL_EXPERT)
        return rules


def factor(where: str, config: Mapping[str, Any], name: str) -> float:
    """The weight that all parts share. Raises ValueError where they differ."""
    found = {f"{part}_{name}_factor": float(config.get(f"{part}_{name}_factor", 1)) for part in FACTORS}
    if len(set(found.values())) > 1:
        raise ValueError(f"{where}: {found}; only one {name} for all of them has a form in this project")
    return found[f"mlp_{name}_factor"]


def lightning_rules(here: str, there: str, mixer: Mapping[str, Any], layer: int, n_layers: int) -> list[Rule]:
    """Four matrices, and four tables of decays that they store and we compute."""
    rules: list[Rule] = [Rename(f"{here}.{o}", f"{there}.{t}.weight") for o, t in LIGHTNING.items()]
    for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay"):
        table = partial(decays, name, mixer["n_heads"], mixer["chunk"], layer, n_layers)
        rules.append(Implied(f"{there}.{name}", table))
    return rules


def decays(name: str, n_heads: int, block: int, layer: int, n_layers: int) -> Tensor:
    """Their tables, bit for bit: the rate m of a head, exp(-m i), exp(-m (C - i)), and exp(-m (i - j)) for j <= i."""
    depth = 1 - layer / (n_layers - 1 + 1e-5) + 1e-5
    rate = ((1 / 2 ** (8 / n_heads)) ** (torch.arange(n_heads) + 1) * depth)[:, None, None]
    place = torch.arange(block) + 1
    if name == "slope_rate":
        return rate
    if name == "query_decay":
        return torch.exp(-rate * place[:, None])
    if name == "key_decay":
        return torch.exp(-rate * (block - place[:, None]))
    apart = rate * (place[:, None] - place[None, :])[None, None]
    return torch.exp(torch.where(apart >= 0, -apart, float("-inf")))


build = MiniMax
