"""Llama, Qwen3 and Mistral, there and back."""

import json
from typing import Any

import pytest

SIZES: dict[str, Any] = {
    "vocab_size": 270, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_there_and_back(name: str, tied: bool, round_trip: Any) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")(**SIZES, tie_word_embeddings=tied)
    round_trip(getattr(transformers, f"{name}ForCausalLM")(config))


@pytest.mark.parametrize("window", [5, None])
def test_mistral_there_and_back(window: int | None, round_trip: Any) -> None:
    import transformers

    config = transformers.MistralConfig(**SIZES, sliding_window=window)
    round_trip(transformers.MistralForCausalLM(config))
    kind = json.loads((round_trip.folder / "ours" / "config.json").read_text())["model"]["mixer"]["kind"]
    assert kind == ("gqa" if window is None else "sliding_window")
