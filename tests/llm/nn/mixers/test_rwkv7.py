"""rwkv7: against the recurrence, and a whole model against the reference implementation's weights and logits."""

import os

import pytest
import torch
import torch.nn.functional as F

from llm import registry
from llm.nn.mixers.rwkv7 import FIRST_VALUES, STRONGEST, Config
from llm.nn.model import Decoder, ModelConfig
from llm.params import ParamsError, from_dict
from tests.laws.mixer_laws import D, build, rows, run

SMALL = {"d_head": 8, "decay_rank": 5, "rate_rank": 4, "value_rank": 3, "gate_rank": 6}
VOCAB, T = 50, 21


def model(n_layers=6, seed=0, **changes):
    """Time and channel mix in turn, as a whole RWKV-7; every table drawn, so that nothing is silent."""
    data = {
        "d_model": D, "n_layers": n_layers, "max_len": 64, "tied_head": False, "embedding_norm": True,
        "mixer": {
            "kind": "hybrid", "pattern": ["first", "second"], "first": {"kind": "rwkv7", **SMALL},
            "second": {"kind": "rwkv_channel"},
        },
        "ffn": {"kind": "none"}, "norm": {"kind": "layernorm"}, "position": {"kind": "none"},
        "init": {"kind": "gpt2", "std": 0.3},
    }  # fmt: skip
    torch.manual_seed(seed)
    made = Decoder(from_dict(ModelConfig, data | changes, "p"), VOCAB)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def textbook(mixer, x, first=None):
    """One token after the other, from the equations; the state has values as rows, as in the paper."""
    B, T, _ = x.shape
    before = F.pad(x, (0, 0, 1, -1))
    x_r, x_w, x_k, x_v, x_a, x_g = (s * x + (1 - s) * before for s in mixer.share_6D)
    r, k, v = mixer.w_r(x_r), mixer.w_k(x_k), mixer.w_v(x_v)
    w = torch.exp(
        -STRONGEST * torch.sigmoid(mixer.decay.bias_D + mixer.decay.up(torch.tanh(mixer.decay.down(x_w))))
    )
    a = torch.sigmoid(mixer.rate.bias_D + mixer.rate.up(mixer.rate.down(x_a)))
    g = mixer.w_gate_up(torch.sigmoid(mixer.w_gate_down(x_g)))
    if first is not None:
        v = v + (first - v) * torch.sigmoid(mixer.value.bias_D + mixer.value.up(mixer.value.down(x_v)))
    shape = (B, T, mixer.n_heads, mixer.d_head)
    direction = F.normalize((k * mixer.removed_NH.flatten()).view(shape), dim=-1)
    k = (k * (1 + (a - 1) * mixer.replaced_NH.flatten())).view(shape)
    r, v, w, a = (y.view(shape) for y in (r, v, w, a))
    S, out = x.new_zeros(B, mixer.n_heads, mixer.d_head, mixer.d_head), []
    for t in range(T):
        d = direction[:, t]
        S = (
            S * w[:, t, :, None]
            - (S @ d[..., None]) * (d * a[:, t])[:, :, None]
            + v[:, t, ..., None] * k[:, t, :, None]
        )
        out.append(S @ r[:, t, ..., None])
    o = torch.stack(out, 1).squeeze(-1)
    normed = F.group_norm(o.flatten(0, 1).flatten(1), mixer.n_heads, mixer.gain, mixer.bias, eps=64e-5).view(
        B, T, -1
    )
    own = ((r * k * mixer.bonus_NH).sum(-1, keepdim=True) * v).flatten(2)
    return mixer.w_o((normed + own) * g)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_equals_the_recurrence_with_gradients(chunk):
    mixer, position = build("rwkv7", {**SMALL, "chunk": chunk})
    x = rows(2, 19).requires_grad_()
    found, wanted = run(mixer, position, x), textbook(mixer, x)
    torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
    weight = torch.randn_like(wanted)
    inputs = [x, *(p for name, p in mixer.named_parameters() if not name.startswith("value."))]
    ours = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def reference_weights(ours):
    """Our tensors under the names and in the layout of the reference's checkpoints (D, R) and (1, 1, D)."""
    z = {"emb.weight": ours.embedding.weight, "head.weight": ours.head.weight}
    norms = {"blocks.0.ln0": ours.embedding_norm, "ln_out": ours.final_norm}
    for n in range(ours.config.n_layers // 2):
        time, channel = ours.layers[2 * n], ours.layers[2 * n + 1]
        norms |= {f"blocks.{n}.ln1": time.mixer_norm, f"blocks.{n}.ln2": channel.mixer_norm}
        att, ffn, mixer = f"blocks.{n}.att", f"blocks.{n}.ffn", time.mixer
        norms[f"{att}.ln_x"] = mixer
        for name, share in zip("rwkvag", mixer.share_6D, strict=True):
            z[f"{att}.x_{name}"] = 1 - share
        for name, map_ in {"w": mixer.decay, "a": mixer.rate, "v": mixer.value}.items():
            if map_ is not None:
                z |= {
                    f"{att}.{name}0": map_.bias_D,
                    f"{att}.{name}1": map_.down.weight.T,
                    f"{att}.{name}2": map_.up.weight.T,
                }
        z |= {f"{att}.g1": mixer.w_gate_down.weight.T, f"{att}.g2": mixer.w_gate_up.weight.T}
        z |= {f"{att}.k_k": mixer.removed_NH.flatten(), f"{att}.k_a": mixer.replaced_NH.flatten()}
        z |= {f"{att}.r_k": mixer.bonus_NH, f"{ffn}.x_k": 1 - channel.mixer.shares[0]}
        names = {"receptance": mixer.w_r, "key": mixer.w_k, "value": mixer.w_v, "output": mixer.w_o}
        z |= {f"{att}.{name}.weight": layer.weight for name, layer in names.items()}
        z |= {
            f"{ffn}.key.weight": channel.mixer.w_up.weight,
            f"{ffn}.value.weight": channel.mixer.w_down.weight,
        }
    z |= {f"{name}.weight": norm.gain for name, norm in norms.items()}
    z |= {f"{name}.bias": norm.bias for name, norm in norms.items()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in z.items()}


@pytest.fixture
def reference(monkeypatch, capsys):
    """The class of the `rwkv` package; which one it is depends on the environment at import."""
    for name, value in {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}.items():
        monkeypatch.setitem(os.environ, name, value)
    import rwkv.model

    return rwkv.model.RWKV


def test_a_whole_model_has_the_logits_of_the_reference(reference, tmp_path):
    ours = model()
    torch.save(reference_weights(ours), tmp_path / "tiny.pth")
    theirs = reference(model=str(tmp_path / "tiny"), strategy="cpu fp32")
    tokens = torch.randint(VOCAB, (T,), generator=torch.Generator().manual_seed(1))
    wanted, state = theirs.forward(tokens.tolist(), None, full_output=True)
    found = ours(tokens[None])[0]
    unit = float(wanted.abs().max())
    assert unit > 1
    torch.testing.assert_close(found / unit, wanted / unit, atol=1e-5, rtol=0)
    states = ours.init_state(1)  # and its states, which have values as rows
    ours.prefill(tokens[None], states)
    for n in range(3):
        torch.testing.assert_close(states[2 * n]["S"][0].mT, state[3 * n + 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states[2 * n]["last"][0, 0], state[3 * n], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[2 * n + 1]["last"][0, 0], state[3 * n + 2], atol=1e-5, rtol=1e-4)
    wanted, _ = theirs.forward([7], state)  # one more token
    torch.testing.assert_close(
        ours.decode(torch.tensor([[7]]), states)[0, 0] / unit, wanted / unit, atol=1e-5, rtol=0
    )


def test_later_layers_take_values_of_the_first():
    made = model(n_layers=4).double()
    mixer, later = (made.layers[n].mixer for n in (0, 2))
    assert mixer.value is None
    assert later.value is not None
    tokens = torch.randint(VOCAB, (2, T))
    with_first = made(tokens)
    later.value.bias_D.data.fill_(-1e4)  # a share of nothing
    assert (made(tokens) - with_first).abs().max() > 1e-3
    made(tokens).square().mean().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_a_share_of_everything_gives_the_values_of_the_first_layer_and_their_gradients():
    mixer, position = build("rwkv7", SMALL)
    x, first = rows(2), rows(2, seed=5).requires_grad_()
    before = F.pad(x, (0, 0, 1, -1))
    rule, _ = mixer.split(x, before, {FIRST_VALUES: first})
    share = torch.sigmoid(mixer.value(x * mixer.share_6D[3] + before * (1 - mixer.share_6D[3])))
    assert share.min() > 0.05
    rule[2].sum().backward()
    torch.testing.assert_close(first.grad, share)
    mixer.value.bias_D.data.fill_(1e4)
    rule, _ = mixer.split(x, before, {FIRST_VALUES: first})
    torch.testing.assert_close(rule[2].transpose(1, 2).flatten(2), first)


def test_packed_documents_and_pieces_are_documents_alone():
    """The laws see one layer; here the values of the first layer pass between layers."""
    made = model().double()
    tokens = torch.randint(VOCAB, (1, 24), generator=torch.Generator().manual_seed(2))
    segments = torch.tensor([[1] * 9 + [2] * 12 + [0] * 3])
    packed = made(tokens, segments)
    torch.testing.assert_close(packed[:, :9], made(tokens[:, :9]), atol=1e-10, rtol=0)
    torch.testing.assert_close(packed[:, 9:21], made(tokens[:, 9:21]), atol=1e-10, rtol=0)
    states = made.init_state(1)
    pieces = [made.prefill(tokens[:, a:b], states) for a, b in ((0, 3), (3, 11), (11, 23))]
    pieces.append(made.decode(tokens[:, 23:], states))
    torch.testing.assert_close(torch.cat(pieces, 1), made(tokens), atol=1e-10, rtol=0)


def test_alone_without_channel_mix_and_with_modules_that_look_ahead():
    """rwkv7 before an ordinary FFN; a module of multi-token prediction has no first layer to take values from."""
    from llm.nn.mtp import mtp_loss

    made = model(
        n_layers=2, mixer={"kind": "rwkv7", **SMALL}, ffn={"kind": "swiglu", "d_ff": 30}, mtp={"depth": 1}
    )
    assert made.mtp[0].block.mixer.value is None
    tokens = torch.randint(VOCAB, (2, T))
    h, _ = made.hidden(tokens)
    loss, scored = mtp_loss(made, h, tokens.roll(-1, 1), torch.ones(2, T, dtype=torch.bool), None)
    (loss + made.head(h).square().mean()).backward()
    assert scored == 2 * (T - 1)
    assert all(p.grad is not None for p in made.parameters())


def test_first_weights_follow_the_rule():
    mixer, _ = build("rwkv7", {"d_head": 12})
    decay = torch.exp(-STRONGEST * torch.sigmoid(mixer.decay.bias_D))
    assert 0.54 < decay.min() < 0.7
    assert decay.max() > 0.99
    assert mixer.decay.down.weight.shape == (32, D)
    torch.testing.assert_close(
        mixer.w_gate_up.weight.norm(dim=1),
        torch.full((D,), 0.1 * (32 / D) ** 0.5, dtype=torch.float64),
    )
    marked = [mixer.share_6D, mixer.bonus_NH, mixer.gain, mixer.decay.bias_D, mixer.value.bias_D]
    assert all(p.elementwise for p in marked)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_head": 0}, r"d_head \(0\) must be positive"),
        ({"gate_rank": 0}, r"gate_rank \(0\) must be positive"),
        ({"chunk": 132}, r"chunk \(132\) must be at most 131"),
    ],
)
def test_wrong_configs_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(registry.module("llm.nn.mixers", "rwkv7").Config, values, "p")
    assert Config().chunk > 0


def test_heads_must_fill_the_model():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of d_head \(5\)"):
        build("rwkv7", {"d_head": 5})
