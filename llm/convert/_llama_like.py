"""_llama_like: what Llama and its relatives have in common: names, GQA, SwiGLU, RoPE, layers in turn.

Shapes      D hidden_size, N query heads, G key-value heads, H head_dim, F intermediate_size
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llm.convert.base import Fuse, Rename, Rule, Stack, demand
from llm.nn.ffn._experts import expert_width
from llm.nn.ffn.base import gated_width


def rope_of(
    where: str, config: Mapping[str, Any], *, theta: float = 1e4, fraction: float = 1.0
) -> dict[str, Any]:
    """The `position` section for their `rope_parameters`; theta, fraction: what they mean where nothing is said."""
    rope = config.get("rope_parameters")
    if not rope:
        demand(where, config, rope_scaling=None)  # how older files ask for a stretched rotation
        rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", theta)}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{where}: rope_type {rope['rope_type']!r}; only 'default' is converted")
    return {
        "kind": "rope",
        "base": float(rope["rope_theta"]),
        "fraction": float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", fraction))),
    }


def rope_to(model: Mapping[str, Any], *, layout: str = "half") -> dict[str, Any]:
    """Their `rope_parameters` for our `position` section; layout: the pairs they rotate."""
    position = model["position"]
    if position["kind"] != "rope":
        raise ValueError(f"convert: position {position['kind']!r}; only 'rope' is converted")
    demand("convert: position", position, layout=layout)
    found = {"rope_type": "default", "rope_theta": position["base"]}
    if position.get("fraction", 1) != 1:
        found["partial_rotary_factor"] = position["fraction"]
    return found


def sizes_of(config: Mapping[str, Any], *, tied: bool = False) -> dict[str, Any]:
    """The keys every model section has; tied: what they mean where nothing is said of the head."""
    return {
        "d_model": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "max_len": config["max_position_embeddings"],
        "tied_head": config.get("tie_word_embeddings", tied),
        "init": {"kind": "gpt2", "std": config.get("initializer_range", 0.02)},
    }


def sizes_to(model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The keys every config.json has."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": model["d_model"],
        "num_hidden_layers": model["n_layers"],
        "max_position_embeddings": model["max_len"],
        "tie_word_embeddings": model["tied_head"],
        "initializer_range": model["init"].get("std", 0.02),
        "dtype": "float32",
    }


def attention_of(where: str, config: Mapping[str, Any], *, qk_norm: bool) -> dict[str, Any]:
    """The fields of a `gqa` mixer."""
    demand(where, config, attention_bias=False)
    heads = config["num_attention_heads"]
    return {
        "n_heads": heads,
        "n_kv_heads": config.get("num_key_value_heads") or heads,
        "qk_norm": qk_norm,
        "d_head": config.get("head_dim") or config["hidden_size"] // heads,
    }


def attention_to(mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
    """Their keys for the fields of a `gqa` mixer."""
    if not mixer.get("rotate", True):
        raise ValueError("convert: mixer.rotate is false; every layer of the other format rotates")
    demand("convert: mixer", mixer, gate=False)
    return {
        "num_attention_heads": mixer["n_heads"],
        "num_key_value_heads": mixer["n_kv_heads"],
        "head_dim": mixer["d_head"] or d_model // mixer["n_heads"],
        "attention_bias": False,
    }


def attention_rules(here: str, there: str, mixer: Mapping[str, Any], d_model: int) -> list[Rule]:
    """q, k, v stacked by rows here; o; norms of queries and keys."""
    width = mixer["d_head"] or d_model // mixer["n_heads"]
    rows, rows_kv = mixer["n_heads"] * width, mixer["n_kv_heads"] * width
    parts = [
        (f"{there}.q_proj.weight", rows),
        (f"{there}.k_proj.weight", rows_kv),
        (f"{there}.v_proj.weight", rows_kv),
    ]
    rules: list[Rule] = [
        Fuse(f"{here}.w_qkv.weight", parts),
        Rename(f"{here}.w_o.weight", f"{there}.o_proj.weight"),
    ]
    if mixer["qk_norm"]:
        rules += [Rename(f"{here}.{n}_norm.gain", f"{there}.{n}_norm.weight") for n in "qk"]
    return rules


def gated_rules(here: str, there: str, d_ff: int) -> list[Rule]:
    """A gated FFN: gate rows first here."""
    return [
        Fuse(
            f"{here}.w_gate_up.weight",
            [(f"{there}.gate_proj.weight", d_ff), (f"{there}.up_proj.weight", d_ff)],
        ),
        Rename(f"{here}.w_down.weight", f"{there}.down_proj.weight"),
    ]


def outer_rules(
    model: Mapping[str, Any],
    *,
    embedding: str = "model.embed_tokens",
    norm: str = "model.norm",
    gain: str = "gain",
) -> list[Rule]:
    """Embedding, final norm, head (a tied head is stored once on both sides). gain: its name in our norm."""
    rules: list[Rule] = [
        Rename("embedding.weight", f"{embedding}.weight"),
        Rename(f"final_norm.{gain}", f"{norm}.weight"),
    ]
    return rules if model["tied_head"] else [*rules, Rename("head.weight", "lm_head.weight")]


def norm_rules(
    here: str, there: str, *, ffn: str = "post_attention_layernorm", gain: str = "gain"
) -> list[Rule]:
    """The two norms of a Pre-LN layer."""
    return [
        Rename(f"{here}.mixer_norm.{gain}", f"{there}.input_layernorm.weight"),
        Rename(f"{here}.ffn_norm.{gain}", f"{there}.{ffn}.weight"),
    ]


LLAMA_EXPERT, MIXTRAL_EXPERT = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")


def expert_rules(
    here: str, there: str, n_experts: int, *, router: str = "gate", names: Sequence[str] = LLAMA_EXPERT
) -> list[Rule]:
    """A router and its experts, stacked here; names: of the gate, the way up and the way down."""
    experts, (gate, up, down) = [f"{there}.experts.{e}" for e in range(n_experts)], names
    return [
        Rename(f"{here}.w_router.weight", f"{there}.{router}.weight"),
        Stack(f"{here}.experts.w_gate_up", [[f"{e}.{gate}.weight", f"{e}.{up}.weight"] for e in experts]),
        Stack(f"{here}.experts.w_down", [[f"{e}.{down}.weight"] for e in experts]),
    ]


def pattern_of(where: str, config: Mapping[str, Any], first: str, second: str) -> list[str]:
    """The shortest `pattern` of a hybrid mixer that, repeated, gives their `layer_types`."""
    types, names = config["layer_types"], {first: "first", second: "second"}
    if len(types) != config["num_hidden_layers"] or set(types) - names.keys():
        found = f"{len(types)} layers of {', '.join(sorted(set(types)))}"
        raise ValueError(
            f"{where}: layer_types has {found}; expected {config['num_hidden_layers']} of {first}, {second}"
        )
    parts = [names[one] for one in types]
    fits = (n for n in range(1, len(parts) + 1) if parts == turns(parts[:n], len(parts)))
    return parts[: next(fits)]


def turns(pattern: Sequence[str], n_layers: int) -> list[str]:
    """The part of each layer: the pattern, repeated to the last."""
    return [pattern[layer % len(pattern)] for layer in range(n_layers)]


def expert_d_ff(d_model: int, ffn: Mapping[str, Any]) -> int:
    """Hidden width of one expert, also where the config leaves it to the default."""
    return int(ffn["d_ff"] or expert_width(d_model, ffn["n_active"] + ffn.get("n_shared", 0)))


def d_ff(model: Mapping[str, Any]) -> int:
    """Hidden width of a gated FFN, also where the config leaves it to the default."""
    return int(model["ffn"]["d_ff"] or gated_width(model["d_model"]))
