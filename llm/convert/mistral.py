"""mistral: MistralForCausalLM: Llama whose every layer sees a window of the last tokens.

Source      Jiang et al. 2023, arXiv 2310.06825
Differs     no rope scaling; a checkpoint without a window (Mistral 0.3) is plain `gqa`
"""

from collections.abc import Mapping
from typing import Any

from llm.convert import _llama_like as shared
from llm.convert.base import demand
from llm.convert.llama import Llama

WINDOW = 4096  # of a config.json that does not name one


class Mistral(Llama):
    """sliding_window, swiglu, rmsnorm, rope, pre_norm."""

    model_type, causal_lm = "mistral", "MistralForCausalLM"

    def mixer(self, config: Mapping[str, Any]) -> dict[str, Any]:
        where = f"{self.model_type} config.json"
        demand(where, config, layer_types=None)  # windows in some layers only: another class of theirs
        window = config.get("sliding_window", WINDOW)
        fields = shared.attention_of(where, config, qk_norm=False)
        return (
            {"kind": "gqa", **fields}
            if window is None
            else {"kind": "sliding_window", "window": window, **fields}
        )

    def theirs(self, model: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
        mixer = model["mixer"]
        if mixer["kind"] == "gqa":
            return {**super().theirs(model, vocab_size), "sliding_window": None}
        demand("convert: mixer", mixer, kind="sliding_window", sinks=0)
        plain = {**model, "mixer": {**mixer, "kind": "gqa"}}
        return {**super().theirs(plain, vocab_size), "sliding_window": mixer["window"]}


build = Mistral
