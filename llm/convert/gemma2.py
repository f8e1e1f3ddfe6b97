"""gemma2: Gemma2ForCausalLM: a window and the whole past in turn, norms on both sides of every part.

Their embedding is multiplied by sqrt(D) on the way in and, tied, used as it is as the head. Here the factor is part
of the embedding, so that embedding and head are two tensors.

Source      Gemma Team 2024, arXiv 2408.00118
Differs     no soft caps; scores are divided by the root of the width of a head, as in their 2B and 9B
Shapes      D hidden_size
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llm.convert import _llama_like as shared
from llm.convert.base import Architecture, Rename, Rule, Weights, demand

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SOFTCAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # where nothing is said
NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_out_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_out_norm": "post_feedforward_layernorm",
}


class Gemma2(Architecture):
    """hybrid (sliding_window, gqa), geglu, rmsnorm_unit_offset, rope, sandwich."""

    model_type, causal_lm = "gemma2", "Gemma2ForCausalLM"
    shared: Mapping[str, Any] = {"norm": "rmsnorm_unit_offset", "residual": "sandwich"}

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where, n_layers = "gemma2 config.json", config["num_hidden_layers"]
        for key, usual in SOFTCAPS.items():
            if (cap := config.get(key, usual)) is not None:
                raise ValueError(
                    f"{where}: {key} is {cap}; this project has no soft caps, so its numbers would differ; "
                    "only models trained with null can be converted"
                )
        fields = shared.attention_of(where, config, qk_norm=False)
        demand(where, config, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=fields["d_head"])
        demand(where, {"bidirectional": bool(config.get("use_bidirectional_attention"))}, bidirectional=False)
        types = config.get("layer_types") or shared.turns(["sliding_attention", "full_attention"], n_layers)
        pattern = shared.pattern_of(
            where, {**config, "layer_types": types}, "sliding_attention", "full_attention"
        )
        return {
            **shared.sizes_of(config),
            "tied_head": False,
            "mixer": {
                "kind": "hybrid",
                "pattern": pattern,
                "first": {"kind": "sliding_window", "window": config["sliding_window"], **fields},
                "second": {"kind": "gqa", **fields},
            },
            "ffn": {"kind": "geglu", "d_ff": config["intermediate_size"], "gelu": "tanh"},
            "norm": {"kind": "rmsnorm_unit_offset", "eps": config["rms_norm_eps"]},
            "residual": {"kind": "sandwich"},
            "position": shared.rope_of(where, config),
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer, ffn = model["mixer"], model["ffn"]
        demand("convert: mixer", mixer, kind="hybrid")
        first, second = mixer["first"], mixer["second"]
        demand("convert: mixer.first", first, kind="sliding_window", sinks=0, qk_norm=False)
        demand("convert: mixer.second", second, kind="gqa", qk_norm=False)
        demand("convert: ffn", ffn, kind="geglu", gelu="tanh")
        heads = shared.attention_to(second, model["d_model"])
        demand("convert: mixer.first", shared.attention_to(first, model["d_model"]), **heads)
        names = {"first": "sliding_attention", "second": "full_attention"}
        return {
            **shared.sizes_to(model, vocab_size),
            **heads,
            **dict.fromkeys(SOFTCAPS),
            "tie_word_embeddings": False,
            "query_pre_attn_scalar": heads["head_dim"],
            "layer_types": [names[part] for part in shared.turns(mixer["pattern"], model["n_layers"])],
            "sliding_window": first["window"],
            "intermediate_size": shared.d_ff(model),
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": model["norm"]["eps"],
            "rope_parameters": shared.rope_to(model),
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        scale, D = model["d_model"] ** 0.5, model["d_model"]
        rules: list[Rule] = [
            Rename(
                "embedding.weight",
                EMBEDDING,
                partial(torch.mul, other=scale),
                partial(torch.div, other=scale),
            ),
            Rename("embedding.weight" if model["tied_head"] else "head.weight", HEAD),
            Rename("final_norm.offset", "model.norm.weight"),
        ]
        for n, part in enumerate(shared.turns(model["mixer"]["pattern"], model["n_layers"])):
            here, there = f"blocks.{n}", f"model.layers.{n}"
            rules += [Rename(f"{here}.{o}.offset", f"{there}.{t}.weight") for o, t in NORMS.items()]
            names = f"{here}.mixer", f"{there}.self_attn"
            rules += shared.attention_rules(*names, model["mixer"][part], D)
            rules += shared.gated_rules(f"{here}.ffn", f"{there}.mlp", shared.d_ff(model))
        return rules

    def received(self, config: Mapping[str, Any], weights: Weights) -> Weights:
        """A tied head is a tensor of its own here."""
        if not config.get("tie_word_embeddings", True) or EMBEDDING not in weights:
            return weights
        if HEAD in weights:
            raise ValueError(f"convert: {HEAD} beside tie_word_embeddings; the files do not belong together")
        return {**weights, HEAD: weights[EMBEDDING]}

    def sent(
        self, config: dict[str, Any], weights: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Tied again where the embedding still is the head times sqrt(D)."""
        scale = config["hidden_size"] ** 0.5
        if not torch.equal(weights[HEAD] * scale / scale, weights[EMBEDDING]):
            return config, weights
        tied = {**weights, EMBEDDING: weights[HEAD]}
        del tied[HEAD]
        return {**config, "tie_word_embeddings": True}, tied


build = Gemma2
