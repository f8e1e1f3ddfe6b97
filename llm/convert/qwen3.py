"""qwen3: Qwen3ForCausalLM: Llama with a norm on every query and key.

Source      Qwen Team 2025, arXiv 2505.09388
Differs     no biases, no sliding window, no rope scaling
"""

from collections.abc import Mapping
from typing import Any

from llm.convert.base import demand
from llm.convert.llama import Llama


class Qwen3(Llama):
    """gqa with qk_norm, swiglu, rmsnorm, rope, pre_norm."""

    model_type, causal_lm = "qwen3", "Qwen3ForCausalLM"
    qk_norm = True

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        demand("qwen3 config.json", config, use_sliding_window=False)
        return super().ours(config)


build = Qwen3
