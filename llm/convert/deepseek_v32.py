"""deepseek_v32: DeepseekV32ForCausalLM: DeepSeek-V3 whose attention reads the tokens that an indexer picks.

Source      DeepSeek-AI 2025, arXiv 2512.02556
Differs     no rope scaling; no Hadamard transform and no FP8 in the indexer, as in `transformers`
Shapes      J index_n_heads, I index_head_dim, R rotated channels of it
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llm.convert.base import Rename, Rule, demand
from llm.convert.deepseek_v3 import DeepseekV3
from llm.nn.position._rotary import interleaved_to_half


class DeepseekV32(DeepseekV3):
    """dsa over mla, alternate (swiglu, then moe_deepseek), rmsnorm, rope with neighbouring pairs, pre_norm."""

    model_type, causal_lm = "deepseek_v32", "DeepseekV32ForCausalLM"
    latent = "main"

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where, leading = "deepseek_v32 config.json", config["first_k_dense_replace"]
        dense = min(leading, config["num_hidden_layers"])
        mlps = ["dense"] * dense + ["sparse"] * (config["num_hidden_layers"] - dense)
        demand(where, {"mlp_layer_types": config.get("mlp_layer_types") or mlps}, mlp_layer_types=mlps)
        types = config.get("layer_types") or ["indexed_attention"]
        demand(where, {"layer_types": sorted(set(types))}, layer_types=["indexed_attention"])
        demand(where, config, mlp_bias=False)
        return super().ours(config)

    def mixer(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super().mixer(config),
            "kind": "dsa",
            "main": "mla",
            "index_heads": config["index_n_heads"],
            "index_dim": config["index_head_dim"],
            "index_rope": config["qk_rope_head_dim"],
            "top_k": config["index_topk"],
        }

    def mixer_to(self, mixer: Mapping[str, Any]) -> dict[str, Any]:
        demand("convert: mixer", mixer, kind="dsa", main="mla", stage="sparse")
        demand("convert: mixer", mixer, index_rope=mixer["d_rope"])
        if not mixer["q_rank"]:
            raise ValueError(
                "convert: mixer: q_rank is null; queries of the other format come out of a latent"
            )
        return {
            **self.latent_to(mixer),
            "index_n_heads": mixer["index_heads"],
            "index_head_dim": mixer["index_dim"],
            "index_topk": mixer["top_k"],
        }

    def mixer_rules(self, here: str, there: str, mixer: Mapping[str, Any]) -> list[Rule]:
        """Their indexer rotates pairs (i, i + R/2) where their attention rotates neighbours: its rows move here."""
        pairs = interleaved_to_half(mixer["index_rope"])
        change = partial(reorder, torch.argsort(pairs), mixer["index_dim"])
        back = partial(reorder, pairs, mixer["index_dim"])
        moved = {
            "w_query.weight": "wq_b.weight",
            "w_key.weight": "wk.weight",
            "key_norm.weight": "k_norm.weight",
            "key_norm.bias": "k_norm.bias",
        }
        here_index, there_index = f"{here}.indexer", f"{there}.indexer"
        return [
            *super().mixer_rules(here, there, mixer),
            *[Rename(f"{here_index}.{o}", f"{there_index}.{t}", change, back) for o, t in moved.items()],
            Rename(f"{here_index}.w_weight.weight", f"{there_index}.weights_proj.weight"),
        ]


def reorder(order: Tensor, width: int, rows: Tensor) -> Tensor:
    """The first rows of every head of `width` in another order; the others stay."""
    heads = rows.unflatten(0, (-1, width))
    whole = torch.cat([order, torch.arange(len(order), width)])
    return heads[:, whole].flatten(0, 1)


build = DeepseekV32
