"""_mamba_like: what models made of state spaces have in common: the convolution, the layer of Mamba, no positions.

Shapes      W taps of the convolution, C channels
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm.convert import _llama_like as shared
from llm.convert.base import Rename, Rule, demand

MAX_LEN = 2048  # tokens Mamba was trained on; a state has no limit of its own
NAMES = {"w_in": "in_proj", "w_select": "x_proj", "w_dt": "dt_proj", "w_o": "out_proj"}


def taps(weight_C1W: Tensor) -> Tensor:
    """Conv1d's [C, 1, W] -> ours [W, C]."""
    return weight_C1W.squeeze(1).t()


def channels(filter_WC: Tensor) -> Tensor:
    """The inverse of `taps`."""
    return filter_WC.t().unsqueeze(1)


def conv_rules(here: str, there: str) -> list[Rule]:
    """Filter and bias of the short convolution."""
    return [
        Rename(f"{here}.conv.filter_WC", f"{there}.conv1d.weight", taps, channels),
        Rename(f"{here}.conv.bias_C", f"{there}.conv1d.bias"),
    ]


def mamba_rules(here: str, there: str, *, inner_norms: bool) -> list[Rule]:
    """A layer of Mamba-1; inner_norms: those of Jamba."""
    rules: list[Rule] = [Rename(f"{here}.{o}.weight", f"{there}.{t}.weight") for o, t in NAMES.items()]
    rules += [
        Rename(f"{here}.w_dt.bias", f"{there}.dt_proj.bias"),
        Rename(f"{here}.log_rate", f"{there}.A_log"),
        Rename(f"{here}.skip", f"{there}.D"),
        *conv_rules(here, there),
    ]
    if inner_norms:
        theirs = [f"{there}.{name}_layernorm.weight" for name in ("dt", "b", "c")]
        rules += [Rename(f"{here}.norms.{n}.gain", name) for n, name in enumerate(theirs)]
    return rules


def no_positions(model: Mapping[str, Any]) -> None:
    """Raises ValueError for positions that reach the stream; rotation without a layer that rotates does nothing."""
    if model["position"]["kind"] != "rope":
        demand("convert: position", model["position"], kind="none")


def sizes_of(where: str, config: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """The keys every model section of state spaces alone has, for their config."""
    demand(where, config, use_bias=False, use_conv_bias=True, hidden_act="silu")
    length = config.get("max_position_embeddings", MAX_LEN)
    return {
        **shared.sizes_of({**config, "max_position_embeddings": length}, tied=tied),
        "ffn": {"kind": "none"},
        "norm": {"kind": "rmsnorm", "eps": config["layer_norm_epsilon"]},
        "position": {"kind": "none"},
    }


def sizes_to(model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The inverse of `sizes_of`."""
    demand("convert: ffn", model["ffn"], kind="none")
    no_positions(model)
    return {
        **shared.sizes_to(model, vocab_size),
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": model["norm"]["eps"],
    }


def outer_rules(model: Mapping[str, Any]) -> list[Rule]:
    """Embedding, final norm, head, and the only norm of every layer."""
    rules = shared.outer_rules(model, embedding="backbone.embeddings", norm="backbone.norm_f")
    layers = range(model["n_layers"])
    return rules + [Rename(f"blocks.{n}.mixer_norm.gain", f"backbone.layers.{n}.norm.weight") for n in layers]
