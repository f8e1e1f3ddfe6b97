"""Mamba, Mamba-2, Jamba and RWKV-4, there and back; what of them has no form here is named."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.llm.convert.test_convert_rules import edited, run

MAMBA = {"vocab_size": 270, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 6, "conv_kernel": 3}
JAMBA = {
    "vocab_size": 270, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "attn_layer_period": 3, "attn_layer_offset": 1,
    "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 2,
    "mamba_d_state": 6, "mamba_d_conv": 3, "mamba_dt_rank": 5, "max_position_embeddings": 64, "pad_token_id": None,
}  # fmt: skip
RWKV = {"vocab_size": 270, "hidden_size": 32, "num_hidden_layers": 3, "context_length": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {**MAMBA, "time_step_rank": 5}),
    "mamba, untied": ("Mamba", {**MAMBA, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
    "mamba2": ("Mamba2", {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}),
    "mamba2, tied": (
        "Mamba2", {**MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 1, "tie_word_embeddings": True}
    ),
    "rwkv": ("Rwkv", RWKV),
    "rwkv, tied": ("Rwkv", {**RWKV, "intermediate_size": 44, "tie_word_embeddings": True}),
    "jamba": ("Jamba", JAMBA),
    "jamba, dense": ("Jamba", {**JAMBA, "num_experts": 1, "tie_word_embeddings": True}),
}  # fmt: skip


def tiny(case: str) -> Any:
    import transformers

    name, fields = CASES[case]
    config = getattr(transformers, f"{name}Config")(**fields)
    config._experts_implementation = "eager"
    torch.manual_seed(1)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for key, tensor in model.named_parameters():
        if key.endswith("A_log"):  # equal rates would hide a transposed table
            tensor.data.add_(torch.randn_like(tensor) * 0.3)
        if key.endswith("router.weight"):
            torch.nn.init.normal_(tensor)
        if ".time_" in key:  # most of these tables are equal in every layer
            tensor.data.add_(torch.randn_like(tensor) * 0.3)
    return model


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, round_trip: Any) -> None:
    round_trip(tiny(case))


def test_the_norms_of_b_and_c_keep_their_names(tokenizer_folder: Any, tmp_path: Any) -> None:
    """Exchanged gains would give the same logits: what is multiplied by B is multiplied by C in the end."""
    model = tiny("jamba")
    mamba = model.model.layers[0].mamba
    torch.nn.init.normal_(mamba.b_layernorm.weight)
    model.save_pretrained(tmp_path / "theirs")
    run(tmp_path / "theirs", tmp_path / "ours", "--tokenizer", tokenizer_folder)
    found = load_file(tmp_path / "ours" / "model.safetensors")
    assert torch.equal(found["blocks.0.mixer.norms.1.gain"], mamba.b_layernorm.weight)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("mamba", {"use_bias": True}, "mamba config.json: use_bias is True; only False"),
        ("mamba", {"use_conv_bias": False}, "use_conv_bias is False; only True"),
        ("mamba", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ("mamba2", {"time_step_limit": [0.0, 0.1]}, "time_step_limit is [0.0, 0.1]; only no limit"),
        ("mamba2", {"num_heads": 7}, "num_heads * head_dim must be expand * hidden_size (64)"),
        (
            "rwkv",
            {"attention_hidden_size": 64},
            "attention_hidden_size is 64; only hidden_size (32) has a form",
        ),
        ("rwkv", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is 0.001; only 1e-05 has a form"),
        ("rwkv", {"num_hidden_layers": 4}, "missing rwkv.blocks.3.attention"),
        ("jamba", {"mamba_proj_bias": True}, "mamba_proj_bias is True; only False"),
        ("jamba", {"attn_layer_offset": 2}, "missing model.layers.1.mamba"),
        (
            "jamba",
            {"expert_layer_period": 1, "expert_layer_offset": 0},
            "missing model.layers.0.feed_forward",
        ),
    ],
)
def test_what_has_no_form_here_is_named(
    case: str, changes: dict[str, Any], message: str, tokenizer_folder: Any, tmp_path: Any
) -> None:
    tiny(case).save_pretrained(tmp_path / "made")
    source = edited(tmp_path / "made", tmp_path / "theirs", **changes)
    result = run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("case", "to", "message"),
    [
        ("mamba", "mamba2", "mixer: kind is 'mamba'; only 'mamba2' has a form"),
        ("mamba2", "jamba", "mixer: kind is 'mamba2'; only 'hybrid' has a form"),
        ("rwkv", "mamba", "norm: kind is 'layernorm'; only 'rmsnorm' has a form"),
        ("jamba", "rwkv", "norm: kind is 'rmsnorm'; only 'layernorm' has a form"),
        ("jamba", "mamba", "mixer: kind is 'hybrid'; only 'mamba' has a form"),
    ],
)
def test_another_architecture_says_why_not(
    case: str, to: str, message: str, tokenizer_folder: Any, tmp_path: Any
) -> None:
    tiny(case).save_pretrained(tmp_path / "theirs")
    assert run(tmp_path / "theirs", tmp_path / "ours", "--tokenizer", tokenizer_folder).exit_code == 0
    wrong = run(tmp_path / "ours", tmp_path / "again", "--to", to)
    assert wrong.exit_code == 2
    assert message in wrong.output


@pytest.mark.parametrize("case", ["mamba", "mamba2", "jamba", "rwkv"])
def test_the_architecture_that_fits_is_found(case: str, tokenizer_folder: Any, tmp_path: Any) -> None:
    tiny(case).save_pretrained(tmp_path / "theirs")
    run(tmp_path / "theirs", tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert f"{CASES[case][0]}ForCausalLM" in run(tmp_path / "ours", tmp_path / "again").output
