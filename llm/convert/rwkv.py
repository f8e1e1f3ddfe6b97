"""rwkv: RwkvForCausalLM (RWKV-4): each of their layers is two of ours, time mix and channel mix.

Source      Peng et al. 2023, RWKV, arXiv 2305.13048
Differs     nothing is halved every few layers at inference, which theirs does for the range of float16
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm.convert.base import Architecture, Fuse, Rename, Rule, Weights, demand

OUTER = {"embedding_norm": "rwkv.blocks.0.pre_ln", "final_norm": "rwkv.ln_out"}
TIME = {"w_k": "key", "w_v": "value", "w_r": "receptance", "w_o": "output"}
CHANNEL = {"w_up": "key", "w_down": "value", "w_gate": "receptance"}
EPS = 1e-5  # their last norm has this one whatever the config says


class Rwkv(Architecture):
    """hybrid (rwkv4, rwkv_channel), no ffn, layernorm, also after the embedding, no position, pre_norm."""

    model_type, causal_lm = "rwkv", "RwkvForCausalLM"
    shared: Mapping[str, Any] = {"norm": "layernorm", "residual": "pre_norm"}
    embedding_norm = True

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        width = config["hidden_size"]
        if (config.get("attention_hidden_size") or width) != width:
            raise ValueError(
                f"rwkv config.json: attention_hidden_size is {config['attention_hidden_size']}; "
                f"only hidden_size ({width}) has a form in this project"
            )
        demand("rwkv config.json", config, layer_norm_epsilon=EPS)
        channel = {"kind": "rwkv_channel", "d_ff": config.get("intermediate_size"), "gate": True}
        return {
            "d_model": width,
            "n_layers": 2 * config["num_hidden_layers"],
            "max_len": config["context_length"],
            "tied_head": config.get("tie_word_embeddings", False),
            "embedding_norm": True,
            "mixer": {
                "kind": "hybrid",
                "pattern": ["first", "second"],
                "first": {"kind": "rwkv4"},
                "second": channel,
            },
            "ffn": {"kind": "none"},
            "norm": {"kind": "layernorm", "eps": EPS},
            "position": {"kind": "none"},
            "init": {"kind": "gpt2"},
        }

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer = model["mixer"]
        demand("convert: mixer", mixer, kind="hybrid")
        demand("convert: mixer", {"pattern": list(mixer["pattern"])}, pattern=["first", "second"])
        demand("convert: mixer.first", mixer["first"], kind="rwkv4")
        demand("convert: mixer.second", mixer["second"], kind="rwkv_channel", gate=True)
        demand("convert: ffn", model["ffn"], kind="none")
        demand("convert: norm", model["norm"], eps=EPS, bias=True)
        if model["position"]["kind"] != "rope":  # no layer rotates, so a rotation does nothing
            demand("convert: position", model["position"], kind="none")
        if model["n_layers"] % 2:
            raise ValueError(
                f"convert: n_layers is {model['n_layers']}; only whole pairs of time and channel mix have a form there"
            )
        return {
            "vocab_size": vocab_size,
            "hidden_size": model["d_model"],
            "attention_hidden_size": model["d_model"],
            "intermediate_size": mixer["second"]["d_ff"] or 4 * model["d_model"],
            "num_hidden_layers": model["n_layers"] // 2,
            "context_length": model["max_len"],
            "tie_word_embeddings": model["tied_head"],
            "layer_norm_epsilon": EPS,
            "dtype": "float32",
        }

    def rules(self, model: Mapping[str, Any]) -> list[Rule]:
        norms = dict(OUTER)
        rules: list[Rule] = [Rename("embedding.weight", "rwkv.embeddings.weight")]
        if not model["tied_head"]:
            rules.append(Rename("head.weight", "head.weight"))
        for n in range(model["n_layers"] // 2):
            time, channel, there = f"blocks.{2 * n}", f"blocks.{2 * n + 1}", f"rwkv.blocks.{n}"
            norms |= {f"{time}.mixer_norm": f"{there}.ln1", f"{channel}.mixer_norm": f"{there}.ln2"}
            rules += part_rules(f"{time}.mixer", f"{there}.attention", TIME)
            rules += part_rules(f"{channel}.mixer", f"{there}.feed_forward", CHANNEL)
            shares = [f"{there}.attention.time_mix_{name}" for name in ("key", "value", "receptance")]
            rules += [
                Rename(f"{time}.mixer.log_rate", f"{there}.attention.time_decay"),
                Rename(f"{time}.mixer.bonus", f"{there}.attention.time_first"),
                Fuse(f"{time}.mixer.share_3D", [(name, 1) for name in shares]),
            ]
            shares = [f"{there}.feed_forward.time_mix_{name}" for name in ("key", "receptance")]
            rules.append(Fuse(f"{channel}.mixer.shares", [(name, 1) for name in shares]))
        for here, there in norms.items():
            rules += [Rename(f"{here}.gain", f"{there}.weight"), Rename(f"{here}.bias", f"{there}.bias")]
        return rules

    def received(self, config: Mapping[str, Any], weights: Weights) -> Weights:
        """Their shares are [1, 1, D]."""
        return {name: x.flatten(0, 1) if is_share(name) else x for name, x in weights.items()}

    def sent(
        self, config: dict[str, Any], weights: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return config, {name: x[None] if is_share(name) else x for name, x in weights.items()}


def is_share(name: str) -> bool:
    return ".time_mix_" in name


def part_rules(here: str, there: str, names: Mapping[str, str]) -> list[Rule]:
    """The matrices of one half of a layer."""
    return [Rename(f"{here}.{ours}.weight", f"{there}.{theirs}.weight") for ours, theirs in names.items()]


build = Rwkv
