"""mtp: the loss against its textbook form, against transformers' layer, across documents, and in training."""

import pytest
import torch
import torch.nn.functional as F

from llm.nn import io
from llm.nn.model import Decoder, ModelConfig
from llm.nn.mtp import mtp_loss
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import ParamsError, from_dict
from tests.llm.nn.test_parity import to_hf

V, D, N, G, FF, T = 97, 32, 4, 2, 44, 19  # the sizes of to_hf


def build(depth, weight=0.3, ffn=None, seed=0):
    data = {
        "d_model": D, "n_layers": 3, "max_len": 32, "tied_head": False,
        "mixer": {"kind": "gqa", "n_heads": N, "n_kv_heads": G}, "ffn": ffn or {"kind": "swiglu", "d_ff": FF},
        "norm": {"kind": "rmsnorm", "eps": 1e-5}, "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.2}, "mtp": {"depth": depth, "weight": weight},
    }  # fmt: skip
    torch.manual_seed(seed)
    return Decoder(from_dict(ModelConfig, data, "p"), V).double()


def batch(segments=None):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(V, (2, T + 1), generator=generator)
    mask = torch.rand(2, T, generator=generator) < 0.8
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], mask, segments)


def textbook(model, rows):
    """(1)-(4) place by place: module k sees (h^{k-1}_i, token i+k) and predicts token i+k+1."""
    h, _ = model.hidden(rows.tokens_BT, rows.segments_BT)
    tokens = torch.cat([rows.tokens_BT, rows.targets_BT[:, -1:]], dim=1)
    total = 0.0
    for k, module in enumerate(model.mtp, start=1):
        n = T - k
        both = torch.cat(
            [module.embedding_norm(model.embedding(tokens[:, k : k + n])), module.hidden_norm(h[:, :n])], -1
        )
        segments = None if rows.segments_BT is None else rows.segments_BT[:, :n]
        h, _ = module.block(module.w_in(both), model.position, model.context(n, segments, both))
        h = module.out_norm(h)
        logps = torch.log_softmax(model.head(h), -1)
        nats = []
        for row in range(2):
            for i in range(n):
                same = rows.segments_BT is None or rows.segments_BT[row, i] == rows.segments_BT[row, i + k]
                if rows.mask_BT[row, i + k] and same:
                    nats.append(-logps[row, i, tokens[row, i + k + 1]])
        total = total + torch.stack(nats).mean()
    return model.config.mtp.weight * total / len(model.mtp)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_loss_and_gradients_are_those_of_the_textbook(depth, packed):
    segments = torch.tensor([[1] * 7 + [2] * 12, [1] * 3 + [2] * 10 + [3] * 6]) if packed else None
    model, rows = build(depth), batch(segments)
    h, _ = model.hidden(rows.tokens_BT, rows.segments_BT)
    found, scored = mtp_loss(model, h, rows.targets_BT, rows.mask_BT, rows.segments_BT)
    wanted = textbook(model, rows)
    torch.testing.assert_close(found, wanted, check_dtype=False, atol=1e-6, rtol=1e-6)
    assert 0 < scored < 2 * depth * T
    names = [name for name, _ in model.named_parameters()]
    ours = torch.autograd.grad(found, list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(wanted, list(model.parameters()))
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5, msg=name)


def test_depth_one_equals_the_layer_of_transformers():
    import transformers
    from transformers.modeling_layers import MtpLayer
    from transformers.models.llama import modeling_llama

    model = build(1).float()
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=FF, num_hidden_layers=3, num_attention_heads=N,
        num_key_value_heads=G, head_dim=D // N, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation="eager",
    )  # fmt: skip
    layer = MtpLayer(config, modeling_llama.LlamaDecoderLayer, modeling_llama.LlamaRMSNorm, 0)
    [module] = model.mtp
    renamed = {f"blocks.{i}.{name}": w for i in range(3) for name, w in module.block.state_dict().items()}
    extra = {"embedding.weight": model.embedding.weight, "head.weight": model.head.weight}
    block = to_hf(renamed | extra | {"final_norm.gain": model.final_norm.gain}, qk_norm=False)
    names = {"enorm.weight": module.embedding_norm.gain, "hnorm.weight": module.hidden_norm.gain,
             "eh_proj.weight": module.w_in.weight, "post_norm.weight": module.out_norm.gain}  # fmt: skip
    prefix = "model.layers.0."
    inner = {f"mtp_block.{k.removeprefix(prefix)}": w for k, w in block.items() if k.startswith(prefix)}
    layer.load_state_dict(names | inner)

    h, ahead = torch.randn(2, T, D), torch.randn(2, T, D)
    rotary = modeling_llama.LlamaRotaryEmbedding(config)
    causal = torch.full((T, T), float("-inf")).triu(1)[None, None]
    places = torch.arange(T)[None]
    wanted = layer(ahead, h, rotary(h, places), causal, places, None)
    found, _ = module(h, ahead, model.position, model.context(T, None, h))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_without_depth_there_is_no_trace_of_it():
    plain = build(0)
    assert not [name for name in plain.state_dict() if "mtp" in name]
    with_modules = build(2)
    shared = {name: w for name, w in with_modules.state_dict().items() if "mtp" not in name}
    assert shared.keys() == plain.state_dict().keys()
    assert next_token_loss(plain, batch()).parts.keys() == {"loss_sum"}


def test_the_objective_adds_it_and_reports_it_apart():
    model, rows = build(2), batch()
    loss = next_token_loss(model, rows)
    h, _ = model.hidden(rows.tokens_BT)
    further, _ = mtp_loss(model, h, rows.targets_BT, rows.mask_BT, None)
    assert float(loss.sum.detach()) == pytest.approx(loss.parts["loss_sum"] + loss.parts["mtp_loss_sum"])
    assert loss.parts["mtp_loss_sum"] == pytest.approx(float(further) * loss.count)


def test_auxiliary_losses_of_the_modules_own_parts_are_not_lost(monkeypatch):
    model, rows = build(1), batch()
    [module] = model.mtp
    h, _ = model.hidden(rows.tokens_BT)
    before, _ = mtp_loss(model, h, rows.targets_BT, rows.mask_BT, None)
    block = type(module.block)
    forward = block.forward

    def with_loss(self, *args):
        y, _ = forward(self, *args)
        return y, torch.tensor(2.0)

    monkeypatch.setattr(block, "forward", with_loss)
    after, _ = mtp_loss(model, h, rows.targets_BT, rows.mask_BT, None)
    assert float(after - before) == pytest.approx(2.0 * 0.3)


def test_row_shorter_than_the_depth():
    model = build(3)
    rows = TokenBatch(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]), torch.ones(1, 2, dtype=torch.bool))
    loss = next_token_loss(model, rows)
    loss.sum.backward()
    assert torch.isfinite(loss.sum)


def test_modules_learn_and_are_stored(tmp_path):
    """A row that repeats itself: a model that sees two tokens further gets both right."""
    model = build(1, weight=1.0).float()
    rows = torch.randint(V, (4, 6)).repeat(1, 4)[:, : T + 1]
    data = TokenBatch(rows[:, :-1], rows[:, 1:], torch.ones(4, T, dtype=torch.bool))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(120):
        loss = next_token_loss(model, data)
        first = first or loss.parts["mtp_loss_sum"]
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    assert loss.parts["mtp_loss_sum"] < 0.1 * first
    io.save_model(tmp_path / "m", model, stage="pretrain", tokenizer=_folder(tmp_path))
    again = io.load_model(tmp_path / "m")
    assert F.l1_loss(again.mtp[0].w_in.weight, model.mtp[0].w_in.weight) == 0


def _folder(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "meta.json").write_text("{}")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize(
    ("values", "message"),
    [({"depth": -1}, r"depth \(-1\) must not be negative"), ({"weight": 0.0}, r"weight \(0.0\) must be in")],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(ModelConfig, {"mtp": values}, "p")
