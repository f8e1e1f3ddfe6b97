"""Gemma 2, MiniMax and DeepSeek-V3.2, there and back; models made here go there; what has no form is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.nn import io
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from tests.llm.convert.test_convert_experts import EXPERTS, LATENT
from tests.llm.convert.test_convert_rules import edited, run
from tests.llm.convert.test_llama_like import SIZES

GEMMA = {
    **SIZES, "query_pre_attn_scalar": 10, "sliding_window": 5, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "pad_token_id": None,
}  # fmt: skip
FULL, LINEAR, WINDOW = "full_attention", "linear_attention", "sliding_attention"
MINIMAX = {
    **SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8,
    "layer_types": [LINEAR, LINEAR, FULL],
}  # fmt: skip
LATENT_SIZES = {k: v for k, v in SIZES.items() if k != "head_dim"} | {
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, **LATENT, **EXPERTS, "q_lora_rank": 24,
    "index_n_heads": 8, "index_head_dim": 12, "index_topk": 6,
    "qk_rope_head_dim": 8,  # the two orders of fewer channels are each other's inverse
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2", GEMMA),
    "gemma2, untied": ("Gemma2", {**GEMMA, "hidden_size": 64, "tie_word_embeddings": False}),
    "gemma2, uneven": ("Gemma2", {**GEMMA, "layer_types": [WINDOW, WINDOW, FULL]}),
    "minimax": ("MiniMax", MINIMAX),
    "minimax, scaled": (
        "MiniMax",
        {
            **MINIMAX, "layer_types": None, "head_dim": None, "tie_word_embeddings": True,
            **{f"{part}_alpha_factor": 1.5 for part in ("full_attn", "linear_attn", "mlp")},
            **{f"{part}_beta_factor": 0.5 for part in ("full_attn", "linear_attn", "mlp")},
        },
    ),
    "deepseek_v32": ("DeepseekV32", {**LATENT_SIZES, "first_k_dense_replace": 1}),
    "deepseek_v32, all seen": (
        "DeepseekV32", {**LATENT_SIZES, "index_topk": 40, "n_shared_experts": 2, "first_k_dense_replace": 2}
    ),
}  # fmt: skip


def tiny(case: str, **changes: Any) -> Any:
    import transformers

    name, fields = CASES[case]
    config = getattr(transformers, f"{name}Config")(**fields | changes)
    config._experts_implementation = "eager"
    torch.manual_seed(1)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if key.endswith(("gate.weight", "indexer.weights_proj.weight")):
            torch.nn.init.normal_(tensor)
        if key.endswith("e_score_correction_bias"):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
    return model


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, round_trip: Any) -> None:
    model = tiny(case)
    scale = model.config.hidden_size**0.5 if case.startswith("gemma2") else 1.0
    round_trip(model, embedding_scale=scale)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; this project has no soft"),
        ("gemma2", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0; this project has no"),
        ("gemma2", {"query_pre_attn_scalar": 12}, "query_pre_attn_scalar is 12; only 10 has a form"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "bidirectional is True; only False"),
        ("gemma2", {"tie_word_embeddings": False}, "missing lm_head.weight"),
        ("gemma2, untied", {"tie_word_embeddings": True}, "lm_head.weight beside tie_word_embeddings"),
        ("minimax", {"mlp_alpha_factor": 2}, "only one alpha for all of them has a form"),
        ("minimax", {"layer_types": [LINEAR, FULL]}, "2 layers of full_attention, linear_attention; expected 3"),
        ("minimax", {"layer_types": [LINEAR, WINDOW, FULL]}, "layer_types has 3 layers of full_attention, "),
        ("minimax", {"block_size": 4}, "query_decay is not what its config.json makes it"),
        ("minimax", {"router_jitter_noise": 0.1}, "router_jitter_noise is 0.1"),
        ("deepseek_v32", {"index_topk": 0}, "top_k (0) must be positive"),
        ("deepseek_v32", {"mlp_layer_types": ["sparse", "dense", "dense"]}, "mlp_layer_types is ['sparse'"),
    ],
)  # fmt: skip
def test_what_has_no_form_here_is_named(
    case: str, changes: dict[str, Any], message: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    tiny(case).save_pretrained(tmp_path / "made")
    source = tmp_path / "theirs"
    edited(tmp_path / "made", source)
    rewrite(source, **changes)
    result = run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def rewrite(folder: Path, **changes: Any) -> None:
    """Change keys of a config.json; null stays null."""
    import json

    made = json.loads((folder.parent / "made" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(made | changes))


def test_soft_caps_are_there_where_the_config_is_silent(tokenizer_folder: Path, tmp_path: Path) -> None:
    tiny("gemma2").save_pretrained(tmp_path / "made")
    source = edited(tmp_path / "made", tmp_path / "theirs")  # without keys that are null
    result = run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert "attn_logit_softcapping is 50.0" in result.output


def test_decays_that_were_changed_are_named(tokenizer_folder: Path, tmp_path: Path) -> None:
    tiny("minimax").save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.self_attn.slope_rate"] *= 1.1
    save_file(weights, file)
    result = run(tmp_path / "theirs", tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert "model.layers.0.self_attn.slope_rate is not what its config.json makes it" in result.output


HEADS = {"n_heads": 4, "n_kv_heads": 2}
ROPE_1E4 = {"kind": "rope", "base": 10000.0}
COMMON = {
    "d_model": 32,
    "n_layers": 4,
    "max_len": 64,
    "init": {"kind": "gpt2", "std": 0.1},
    "position": ROPE_1E4,
}
OURS: dict[str, dict[str, Any]] = {
    "Gemma2": {
        "norm": {"kind": "rmsnorm_unit_offset"}, "residual": {"kind": "sandwich"}, "ffn": {"kind": "geglu"},
        "mixer": {
            "kind": "hybrid", "pattern": ["first", "second"],
            "first": {"kind": "sliding_window", **HEADS, "window": 5}, "second": {"kind": "gqa", **HEADS},
        },
    },
    "MiniMax": {
        "norm": {"kind": "rmsnorm"}, "residual": {"kind": "scaled"}, "ffn": {"kind": "moe", "n_experts": 4},
        "mixer": {
            "kind": "hybrid", "pattern": ["first", "first", "second"],
            "first": {"kind": "lightning"}, "second": {"kind": "gqa", **HEADS},
        },
    },
    "Jamba": {
        "norm": {"kind": "rmsnorm"}, "mixer": {
            "kind": "hybrid", "pattern": ["first", "second", "first"],
            "first": {"kind": "mamba", "inner_norms": True},
            "second": {"kind": "gqa", **HEADS, "rotate": False},
        },
        "ffn": {
            "kind": "alternate", "pattern": ["first", "second"], "first": {"kind": "swiglu", "d_ff": 24},
            "second": {"kind": "moe", "n_experts": 4, "d_ff": 24, "renormalise": False},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_a_model_made_here_goes_there(name: str, tied: bool, tokenizer_folder: Path, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(3)
    section = {**COMMON, **OURS[name], "tied_head": tied}
    model = Decoder(from_dict(ModelConfig, section, "test"), 270).eval()
    io.save_model(tmp_path / "ours", model, stage="test", tokenizer=tokenizer_folder)
    assert f"{name}ForCausalLM" in run(tmp_path / "ours", tmp_path / "theirs").output
    theirs = getattr(transformers, f"{name}ForCausalLM").from_pretrained(tmp_path / "theirs").eval()
    tokens = torch.randint(0, 270, (2, 23))
    expected = theirs(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(model(tokens), expected, atol=2e-5, rtol=0)
    assert run(tmp_path / "theirs", tmp_path / "again", "--tokenizer", tokenizer_folder).exit_code == 0
    torch.testing.assert_close(io.load_model(tmp_path / "again")(tokens), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("Gemma2", "mixer.first.sinks", 1, "sinks is 1; only 0 has a form"),
        ("Gemma2", "mixer.first.n_kv_heads", 4, "num_key_value_heads is 4; only 2 has a form"),
        ("Gemma2", "ffn.gelu", "erf", "gelu is 'erf'; only 'tanh'"),
        ("MiniMax", "mixer.first.n_heads", 2, "n_heads is 2; only 4 has a form"),
        ("MiniMax", "mixer.first.norm_eps", 1e-5, "norm_eps is 1e-05; only 1e-06 has a form"),
        (
            "Jamba",
            "mixer.pattern",
            ["first", "second", "second"],
            "only one 'second' a turn has a form there",
        ),
        ("Jamba", "mixer.first.inner_norms", False, "inner_norms is False; only True"),
        ("Jamba", "ffn.second.renormalise", True, "renormalise is True; only False"),
        ("Jamba", "ffn.second.d_ff", 16, "d_ff is 16; only 24 has a form"),
    ],
)
def test_what_has_no_form_there_is_named(
    name: str, path: str, value: Any, message: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    section = changed({**COMMON, **OURS[name], "tied_head": False}, path, value)
    model = Decoder(from_dict(ModelConfig, section, "test"), 270)
    io.save_model(tmp_path / "ours", model, stage="test", tokenizer=tokenizer_folder)
    result = run(tmp_path / "ours", tmp_path / "theirs", "--to", name.lower())
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def changed(section: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which the key of a dotted path is another."""
    head, _, rest = path.partition(".")
    return {**section, head: changed(section[head], rest, value) if rest else value}
