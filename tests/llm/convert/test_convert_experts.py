"""Mixtral, Qwen3-MoE and DeepSeek-V3, there and back."""

from typing import Any

import pytest
import torch

from tests.llm.convert.test_llama_like import SIZES

LATENT = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "kv_lora_rank": 16}
EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 20,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "norm_topk_prob": True},
    ),
    "qwen3_moe, not renormalised": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "norm_topk_prob": False},
    ),
    "deepseek_v3": ("DeepseekV3", {**LATENT, **EXPERTS, "q_lora_rank": 24, "first_k_dense_replace": 1}),
    "deepseek_v3, no query latent": (
        "DeepseekV3", {**LATENT, **EXPERTS, "q_lora_rank": None, "n_shared_experts": 2, "first_k_dense_replace": 2}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, round_trip: Any) -> None:
    import transformers

    name, changes = CASES[case]
    sizes = dict(SIZES)
    if name == "DeepseekV3":
        del sizes["head_dim"]
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    config = getattr(transformers, f"{name}Config")(**sizes, **changes)
    config._experts_implementation = "eager"
    torch.manual_seed(1)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for key, tensor in model.named_parameters():
        if key.endswith("gate.weight"):
            torch.nn.init.normal_(tensor)
    for key, tensor in model.named_buffers():
        if key.endswith("e_score_correction_bias"):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
    round_trip(model)
