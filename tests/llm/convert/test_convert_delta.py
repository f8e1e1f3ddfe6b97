"""Qwen3-Next and Kimi Linear, there and back; models made here go there; what has no form is named."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.commands import preset
from llm.convert.kimi_linear import DENSE, build
from llm.nn import io
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict, read_yaml
from tests.llm.convert.test_convert_experts import LATENT
from tests.llm.convert.test_convert_hybrid import FULL, LINEAR, changed, rewrite
from tests.llm.convert.test_convert_rules import edited, run
from tests.llm.convert.test_llama_like import SIZES

ROOT = Path(__file__).resolve().parents[3]
QWEN = {
    **SIZES, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
    "linear_key_head_dim": 7, "linear_value_head_dim": 5, "linear_conv_kernel_dim": 3,
    "layer_types": [LINEAR, FULL, LINEAR],
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25},
}  # fmt: skip
KIMI = {
    **{key: value for key, value in SIZES.items() if key not in ("head_dim", "rope_parameters")}, **LATENT,
    "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
    "linear_num_heads": 3, "linear_head_dim": 10, "linear_conv_kernel_dim": 3, "layer_types": [LINEAR, FULL, LINEAR],
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("Qwen3Next", QWEN),
    "qwen3_next, tied": ("Qwen3Next", {**QWEN, "tie_word_embeddings": True, "norm_topk_prob": False}),
    "qwen3_next, usual pattern": (
        "Qwen3Next",
        {**QWEN, "num_hidden_layers": 5, "layer_types": None, "linear_num_value_heads": 2, "rope_parameters": None},
    ),
    "kimi_linear": ("KimiLinear", KIMI),
    "kimi_linear, norms of one epsilon": ("KimiLinear", {**KIMI, "rms_norm_eps": 1e-6}),
    "kimi_linear, groups and a query latent": (
        "KimiLinear",
        {
            **KIMI, "n_group": 4, "topk_group": 2, "q_lora_rank": 24, "rms_norm_eps": 1e-2, "n_shared_experts": 2,
            "mlp_layer_types": ["dense", "dense", "sparse"],
        },
    ),
    "kimi_linear, no dense layer": (
        "KimiLinear", {**KIMI, "mlp_layer_types": ["sparse"] * 3, "norm_topk_prob": False}
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
        if key.endswith("gate.weight"):
            torch.nn.init.normal_(tensor)
        if key.endswith("A_log"):  # equal rates would hide a wrong order; A_log of Kimi Linear is no vector
            tensor.data.add_(torch.randn_like(tensor) * 0.3)
        if key.endswith("e_score_correction_bias"):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
    return model


def released(name: str) -> str:
    """`transformers` saves a dense layer of Kimi Linear under the name of the experts; it reads both."""
    return DENSE.sub(".mlp", name)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, round_trip: Any) -> None:
    round_trip(tiny(case), released=released)


def test_an_older_config_of_qwen3_next_means_the_same(round_trip: Any, tokenizer_folder: Path) -> None:
    """Rotation and pattern as the releases name them, before `rope_parameters` and `layer_types`."""
    round_trip(tiny("qwen3_next, usual pattern", rope_parameters=QWEN["rope_parameters"]))
    folder = round_trip.folder
    shutil.copytree(folder / "theirs", folder / "old")
    named = {
        "rope_theta": 5000,
        "partial_rotary_factor": 0.25,
        "full_attention_interval": 4,
        "rope_scaling": None,
    }
    rewrite_in(folder / "old", drop=["rope_parameters", "layer_types"], **named)
    for silent, target in ([], "read"), (["partial_rotary_factor"], "silent"):  # which means a quarter too
        rewrite_in(folder / "old", drop=silent)
        assert run(folder / "old", folder / target, "--tokenizer", tokenizer_folder).exit_code == 0
        assert io.load_model(folder / target).config == io.load_model(folder / "ours").config


def test_the_config_of_kimi_linears_releases_means_the_same(round_trip: Any, tokenizer_folder: Path) -> None:
    round_trip(tiny("kimi_linear"), released=released)
    folder = round_trip.folder
    gone = ["layer_types", "mlp_layer_types", "linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim"]
    shutil.copytree(folder / "theirs", folder / "old")
    section = {
        "kda_layers": [1, 3],
        "full_attn_layers": [2],
        "num_heads": 3,
        "head_dim": 10,
        "short_conv_kernel_size": 3,
    }
    rewrite_in(
        folder / "old", drop=gone, linear_attn_config=section, first_k_dense_replace=1, mla_use_nope=True
    )
    weights = {released(name): w for name, w in load_file(folder / "old" / "model.safetensors").items()}
    save_file(weights, folder / "old" / "model.safetensors", metadata={"format": "pt"})
    assert run(folder / "old", folder / "read", "--tokenizer", tokenizer_folder).exit_code == 0
    assert io.load_model(folder / "read").config == io.load_model(folder / "ours").config
    rewrite_in(folder / "old", linear_attn_config={**section, "kda_layers": [1]})
    result = run(folder / "old", folder / "again2", "--tokenizer", tokenizer_folder)
    assert "linear_attn_config does not name each of 3 layers once" in result.output


def rewrite_in(folder: Path, *, drop: Sequence[str] = (), **changes: Any) -> None:
    """Drop and change keys of a config.json in place."""
    file = folder / "config.json"
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in drop}
    file.write_text(json.dumps(kept | changes))


def test_both_names_of_a_dense_layer_at_once_are_one_too_many() -> None:
    names = [f"model.layers.0.{part}.up_proj.weight" for part in ("block_sparse_moe", "mlp")]
    weights = {name: torch.zeros(1) for name in names}
    assert sorted(build().received({}, weights)) == names
    assert list(build().received({}, {names[0]: torch.zeros(1)})) == names[1:]


def test_gains_stored_less_one_come_back_bit_for_bit() -> None:
    """Every gain that a bfloat16 file can hold from 2^-17 to 2^7, and float32 gains from 0.5 up."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    stored = every[(every >= 2.0**-17) & (every <= 2.0**7)]
    fine = torch.cat([torch.linspace(0.5, 2, 10_001), torch.linspace(2, 300, 10_001)])
    for gains in (stored, fine):
        assert torch.equal((gains - 1) + 1, gains)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("qwen3_next", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2; only 1"),
        ("qwen3_next", {"mlp_only_layers": [0]}, "mlp_only_layers is [0]; only []"),
        ("qwen3_next", {"attention_bias": True}, "attention_bias is True"),
        ("qwen3_next", {"layer_types": [LINEAR, FULL]}, "2 layers of full_attention, linear_attention; expected 3"),
        ("qwen3_next", {"linear_num_value_heads": 4}, "in_proj_qkvz.weight is [88, 32], expected 68 rows"),
        ("qwen3_next", {"head_dim": 12}, "q_proj.weight is [128, 32], expected 96 rows"),
        ("kimi_linear", {"mlp_layer_types": ["sparse", "dense", "sparse"]}, "mlp_layer_types is ['sparse', 'dense'"),
        ("kimi_linear", {"mla_use_nope": False}, "mla_use_nope is False; only True"),
        ("kimi_linear", {"num_key_value_heads": 2}, "num_key_value_heads is 2; only 4"),
        ("kimi_linear", {"tie_word_embeddings": True}, "tie_word_embeddings is True; only False"),
        ("kimi_linear", {"linear_head_dim": 8}, "q_proj.weight is [30, 32], expected 24 rows"),
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


def test_a_pattern_is_never_guessed(tokenizer_folder: Path, tmp_path: Path) -> None:
    """What `transformers` takes where none is given is not the pattern of the releases."""
    tiny("kimi_linear").save_pretrained(tmp_path / "made")
    source = edited(tmp_path / "made", tmp_path / "theirs", layer_types=None)
    result = run(source, tmp_path / "ours", "--tokenizer", tokenizer_folder)
    assert "no 'layer_types'; kimi_linear needs it" in result.output


COMMON = {"d_model": 32, "n_layers": 4, "max_len": 64, "init": {"kind": "gpt2", "std": 0.1}}
ATTENTION = {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2, "qk_norm": True, "gate": True}
OURS: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        **COMMON, "norm": {"kind": "rmsnorm_unit_offset"},
        "mixer": {
            "kind": "hybrid", "pattern": ["first", "first", "first", "second"],
            "first": {"kind": "gated_delta"}, "second": ATTENTION,
        },
        "ffn": {"kind": "moe", "n_experts": 4, "shared_d_ff": 24},
        "position": {"kind": "rope", "fraction": 0.5},
    },
    "kimi_linear": {
        **COMMON, "norm": {"kind": "rmsnorm", "eps": 1e-4},
        "mixer": {
            "kind": "hybrid", "pattern": ["first", "second", "first"],
            "first": {"kind": "kda"}, "second": {"kind": "mla", "rotate": False, "norm_eps": 1e-6},
        },
        "ffn": {
            "kind": "alternate", "leading_first": 1, "pattern": ["second"],
            "first": {"kind": "swiglu"}, "second": {"kind": "moe_deepseek", "n_experts": 4, "n_active": 2},
        },
        "position": {"kind": "none"},
    },
}  # fmt: skip
CLASSES = {"qwen3_next": "Qwen3NextForCausalLM", "kimi_linear": "KimiLinearForCausalLM"}


def agrees_after_export(section: dict[str, Any], name: str, tokenizer: Path, folder: Path) -> None:
    """A model made here: `transformers` gives its logits, and what comes back does too."""
    import transformers

    torch.manual_seed(3)
    model = Decoder(from_dict(ModelConfig, section, "test"), 270).eval()
    io.save_model(folder / "ours", model, stage="test", tokenizer=tokenizer)
    assert CLASSES[name] in run(folder / "ours", folder / "theirs").output
    theirs = getattr(transformers, CLASSES[name]).from_pretrained(folder / "theirs").eval()
    tokens = torch.randint(0, 270, (2, 23))
    expected = theirs(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(model(tokens), expected, atol=2e-5, rtol=0)
    assert run(folder / "theirs", folder / "again", "--tokenizer", tokenizer).exit_code == 0
    torch.testing.assert_close(io.load_model(folder / "again")(tokens), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_a_model_made_here_goes_there(name: str, tied: bool, tokenizer_folder: Path, tmp_path: Path) -> None:
    agrees_after_export({**OURS[name], "tied_head": tied}, name, tokenizer_folder, tmp_path)


@pytest.mark.parametrize("name", OURS)
def test_the_preset_of_the_name_is_that_model(name: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    for one in ("tiny", name):
        preset.apply(one, configs=ROOT / "configs", target=target)
    agrees_after_export(read_yaml(target)["model"], name, tokenizer_folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("qwen3_next", "mixer.first.negative", True, "negative is True; only False"),
        ("qwen3_next", "mixer.second.gate", False, "gate is False; only True"),
        ("qwen3_next", "mixer.second.rotate", False, "mixer.rotate is false"),
        ("qwen3_next", "ffn.shared_d_ff", 0, "ffn.shared_d_ff is 0; the other format has a shared expert"),
        ("qwen3_next", "ffn.shared_gate", False, "shared_gate is False; only True"),
        ("qwen3_next", "norm.kind", "rmsnorm", "kind is 'rmsnorm'; only 'rmsnorm_unit_offset'"),
        ("kimi_linear", "mixer.first.negative", True, "negative is True; only False"),
        ("kimi_linear", "mixer.first.n_value_heads", 8, "n_value_heads is 8; only 4"),
        ("kimi_linear", "mixer.first.d_value", 6, "d_value is 6; only 8"),
        ("kimi_linear", "mixer.first.rank", 4, "rank is 4; only 8"),
        ("kimi_linear", "mixer.second.rotate", True, "rotate is True; only False"),
        ("kimi_linear", "mixer.second.norm_eps", None, "norm_eps is 0.0001; only 1e-06"),
        ("kimi_linear", "mixer.second.mscale", 1.5, "mscale is 1.5; only 1.0"),
        ("kimi_linear", "position", {"kind": "learned"}, "kind is 'learned'; only 'none'"),
    ],
)
def test_what_has_no_form_there_is_named(
    name: str, path: str, value: Any, message: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    section = changed({**OURS[name], "tied_head": False}, path, value)
    if path == "mixer.second.rotate":  # there must be something to rotate, or the laws of the model refuse it
        section["position"] = {"kind": "rope"}
    model = Decoder(from_dict(ModelConfig, section, "test"), 270)
    io.save_model(tmp_path / "ours", model, stage="test", tokenizer=tokenizer_folder)
    result = run(tmp_path / "ours", tmp_path / "theirs", "--to", name)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(("to", "kinds"), [("qwen3", {}), ("llama", {"qk_norm": False})])
def test_a_gate_has_no_form_in_other_architectures(
    to: str, kinds: dict[str, Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    section = {
        **COMMON, "tied_head": False, "mixer": {**ATTENTION, **kinds}, "ffn": {"kind": "swiglu"},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"},
    }  # fmt: skip
    model = Decoder(from_dict(ModelConfig, section, "test"), 270)
    io.save_model(tmp_path / "ours", model, stage="test", tokenizer=tokenizer_folder)
    result = run(tmp_path / "ours", tmp_path / "theirs", "--to", to)
    assert "gate is True; only False has a form" in result.output
