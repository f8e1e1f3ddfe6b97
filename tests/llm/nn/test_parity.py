"""The whole decoder against `transformers`: copied weights, equal logits, losses and gradients."""

from dataclasses import replace

import pytest
import torch

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss, token_logps
from llm.params import from_dict

V, D, L, N, G, F, T = 97, 32, 3, 4, 2, 44, 19


def ours(qk_norm, tied=False):
    data = {
        "d_model": D, "n_layers": L, "max_len": 64, "tied_head": tied,
        "mixer": {"kind": "gqa", "n_heads": N, "n_kv_heads": G, "qk_norm": qk_norm},
        "ffn": {"kind": "swiglu", "d_ff": F}, "norm": {"kind": "rmsnorm", "eps": 1.0e-5},
        "position": {"kind": "rope", "base": 10000.0}, "init": {"kind": "gpt2", "std": 0.2},
    }  # fmt: skip
    torch.manual_seed(1)
    model = Decoder(from_dict(ModelConfig, data, "test"), V)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.2)  # gains of 1 would hide a swapped norm
        assert parameter.requires_grad, name
    return model


def theirs(model, qk_norm):
    import transformers

    kwargs = dict(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=N,
        num_key_value_heads=G, head_dim=D // N, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    cls = ("Qwen3Config", "Qwen3ForCausalLM") if qk_norm else ("LlamaConfig", "LlamaForCausalLM")
    reference = getattr(transformers, cls[1])(getattr(transformers, cls[0])(**kwargs)).eval()
    reference.load_state_dict(to_hf(model.state_dict(), qk_norm))
    return reference


def to_hf(state, qk_norm):
    out = {"model.embed_tokens.weight": state["embedding.weight"], "lm_head.weight": state["head.weight"],
           "model.norm.weight": state["final_norm.gain"]}  # fmt: skip
    H = D // N
    for i in range(L):
        ours, hf = f"blocks.{i}.", f"model.layers.{i}."
        q, k, v = state[ours + "mixer.w_qkv.weight"].split([N * H, G * H, G * H])
        gate, up = state[ours + "ffn.w_gate_up.weight"].chunk(2)
        pairs = {
            "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
            "self_attn.o_proj": state[ours + "mixer.w_o.weight"], "mlp.gate_proj": gate, "mlp.up_proj": up,
            "mlp.down_proj": state[ours + "ffn.w_down.weight"],
            "input_layernorm": state[ours + "mixer_norm.gain"],
            "post_attention_layernorm": state[ours + "ffn_norm.gain"],
        }  # fmt: skip
        if qk_norm:
            pairs["self_attn.q_norm"] = state[ours + "mixer.q_norm.gain"]
            pairs["self_attn.k_norm"] = state[ours + "mixer.k_norm.gain"]
        out |= {f"{hf}{name}.weight": tensor for name, tensor in pairs.items()}
    return out


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
def test_logits_and_gradients_equal_transformers(qk_norm):
    model = ours(qk_norm)
    reference = theirs(model, qk_norm)
    tokens = torch.randint(0, V, (3, T))
    expected = reference(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=0)

    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(3, T - 1, dtype=torch.bool))
    loss = next_token_loss(model, batch)
    (loss.sum / loss.count).backward()
    their_loss = reference(input_ids=tokens, labels=tokens, use_cache=False).loss
    their_loss.backward()
    torch.testing.assert_close(loss.sum / loss.count, their_loss, atol=1e-5, rtol=0)
    grads = to_hf({name: p.grad for name, p in model.named_parameters()}, qk_norm)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_packed_rows_equal_transformers_with_restarting_positions():
    model = ours(False)
    reference = theirs(model, False)
    tokens = torch.randint(0, V, (1, T))
    lengths = [7, 8, 4]
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths, 1)])[None]
    logits = model(tokens, segments)
    start = 0
    for n in lengths:
        expected = reference(input_ids=tokens[:, start : start + n], use_cache=False).logits
        torch.testing.assert_close(logits[:, start : start + n], expected, atol=1e-5, rtol=0)
        start += n


def test_cached_decoding_equals_transformers_generate():
    model = ours(True)
    reference = theirs(model, True)
    prompt = torch.randint(0, V, (1, 5))
    expected = reference.generate(
        prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    states = model.init_state(1, 32)
    logits = model.prefill(prompt, states)[:, -1:]
    tokens = prompt
    for _ in range(12):
        choice = logits.argmax(-1)
        tokens = torch.cat([tokens, choice], dim=1)
        logits = model.decode(choice, states)
    assert tokens.tolist() == expected.tolist()


def test_only_masked_targets_count():
    model = ours(False)
    tokens = torch.randint(0, V, (2, T))
    mask = torch.zeros(2, T - 1, dtype=torch.bool)
    mask[0, 3:9], mask[1, 1] = True, True
    loss = next_token_loss(model, TokenBatch(tokens[:, :-1], tokens[:, 1:], mask))
    assert loss.count == 7
    torch.testing.assert_close(loss.sum, -token_logps(model, tokens)[mask].sum(), atol=1e-4, rtol=1e-5)


def test_tied_head_shares_the_table_and_its_gradient():
    model = ours(False, tied=True)
    assert model.head.weight is model.embedding.weight
    tokens = torch.randint(0, V, (2, T))
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, T - 1, dtype=torch.bool))
    next_token_loss(model, batch).sum.backward()
    used_rows = model.embedding.weight.grad.abs().sum(1).gt(0)
    assert used_rows.all()  # the head touches every row, the embedding only those of the input


def test_a_norm_after_the_embedding_is_part_of_every_way_through_the_model():
    plain = ours(True)
    normed = Decoder(replace(plain.config, embedding_norm=True), V)
    extra = set(normed.state_dict()) - set(plain.state_dict())
    assert extra == {"embedding_norm.gain"}
    torch.nn.init.normal_(normed.embedding_norm.gain, 1.0, 0.2)
    normed.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randint(V, (2, T))
    norm = registry.build(plain.config.norm, D)
    norm.gain = normed.embedding_norm.gain
    plain.embedding.weight.data = norm(plain.embedding.weight).detach()  # what the norm makes of the table
    torch.testing.assert_close(normed(tokens), plain(tokens))
    states = normed.init_state(2)
    pieces = [normed.prefill(tokens[:, :7], states)]
    pieces += [normed.decode(tokens[:, t : t + 1], states) for t in range(7, T)]
    torch.testing.assert_close(torch.cat(pieces, 1), plain(tokens), atol=1e-4, rtol=1e-4)


def test_row_longer_than_max_len_is_refused():
    with pytest.raises(ValueError, match="row of 65 tokens, max_len is 64; raise model.max_len"):
        ours(False)(torch.zeros(1, 65, dtype=torch.long))
