"""MLA against a loop over tokens, `transformers` (DeepSeek-V3 plain and YaRN, Kimi Linear) and its own pitfalls."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm.nn.mixers.mla import Config
from llm.nn.position import yarn
from llm.nn.position._rotary import interleaved_to_half
from llm.nn.position.base import Shape
from llm.peft import lora
from tests.laws.mixer_laws import MAX_LEN, D, T, build, new_state, read, rows, run

N, NOPE, ROPE, VALUE, QR, KVR = 3, 6, 4, 5, 10, 8
SIZES = {"n_heads": N, "d_nope": NOPE, "d_rope": ROPE, "d_value": VALUE, "q_rank": QR, "kv_rank": KVR}


def latent_attention(**changes):
    """A mixer with gains that are not 1, so that a norm in the wrong place shows."""
    mixer, position = build("mla", SIZES | changes)
    for name, parameter in mixer.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.normal_(parameter, 1.0, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return mixer, position


def by_hand(mixer, x, *, rotate=True, base=10000.0, eps=1e-6):
    """The equations, one query and one head at a time, with nothing shared with the mixer but its weights."""
    latent = mixer.latent
    w_q_low, w_c, w_k_rope = latent.w_in.weight.split([QR, KVR, ROPE])

    def rms(v, gain):
        return gain * v / (v.square().mean() + eps).sqrt()

    def turned(v, t):
        if not rotate:
            return v
        out = v.clone()
        for i in range(ROPE // 2):
            angle = t * base ** (-2 * i / ROPE)
            a, b = v[i], v[i + ROPE // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + ROPE // 2] = a * math.sin(angle) + b * math.cos(angle)
        return out

    queries, keys, values = [], [], []
    for t, x_t in enumerate(x):
        c = rms(w_c @ x_t, latent.kv_norm.gain)
        k_rope = turned(w_k_rope @ x_t, t)
        q = (latent.w_q.weight @ rms(w_q_low @ x_t, latent.q_norm.gain)).view(N, NOPE + ROPE)
        kv = (latent.w_kv.weight @ c).view(N, NOPE + VALUE)
        queries.append([torch.cat([q[n, :NOPE], turned(q[n, NOPE:], t)]) for n in range(N)])
        keys.append([torch.cat([kv[n, :NOPE], k_rope]) for n in range(N)])
        values.append([kv[n, NOPE:] for n in range(N)])
    outputs = []
    for t in range(len(x)):
        heads = []
        for n in range(N):
            scores = torch.stack([queries[t][n] @ keys[s][n] for s in range(t + 1)]) / math.sqrt(NOPE + ROPE)
            heads.append(sum(p * values[s][n] for s, p in enumerate(torch.softmax(scores, 0))))
        outputs.append(mixer.w_o.weight @ torch.cat(heads))
    return torch.stack(outputs)


@pytest.mark.parametrize("rotate", [True, False])
def test_equals_the_equations_with_gradients_in_every_form(rotate):
    mixer, position = latent_attention(rotate=rotate)
    x = rows(1).requires_grad_()
    wanted = by_hand(mixer, x[0], rotate=rotate)[None]
    y = run(mixer, position, x)
    torch.testing.assert_close(y, wanted, atol=1e-10, rtol=0)
    weight = torch.randn_like(y)
    inputs = [x, *mixer.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad((y * weight).sum(), inputs),
        torch.autograd.grad((wanted * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=0)
    state = new_state(mixer, 1)
    steps = [
        read(mixer, position, state, x[:, begin:end]) for begin, end in ((0, 5), (5, 9), (9, 10), (10, T))
    ]
    torch.testing.assert_close(torch.cat(steps, 1), wanted, atol=1e-10, rtol=0)


def test_norms_of_the_latents_may_have_an_epsilon_of_their_own():
    mixer, position = latent_attention(norm_eps=0.5)
    x = rows(1)
    torch.testing.assert_close(
        run(mixer, position, x), by_hand(mixer, x[0], eps=0.5)[None], atol=1e-10, rtol=0
    )


def test_cached_are_the_normalised_latent_and_the_rotated_key():
    mixer, position = latent_attention()
    x, state = rows(1), new_state(mixer, 1)
    read(mixer, position, state, x)
    _, w_c, w_k_rope = mixer.latent.w_in.weight.split([QR, KVR, ROPE])
    c, k_rope = state.seen("latent").split([KVR, ROPE], dim=-1)
    torch.testing.assert_close(c, mixer.latent.kv_norm(x @ w_c.T), atol=1e-12, rtol=0)
    plain = x @ w_k_rope.T
    torch.testing.assert_close(k_rope[:, 0], plain[:, 0], atol=1e-12, rtol=0)  # position 0 turns nothing
    torch.testing.assert_close(k_rope.norm(dim=-1), plain.norm(dim=-1), atol=1e-12, rtol=0)  # no norm on it
    assert (k_rope[:, 1:] - plain[:, 1:]).abs().amax(-1).min() > 1e-3


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_decoding_never_writes_out_keys_or_values_of_heads():
    mixer, position = build("mla", SIZES | {"n_heads": 6})
    x, state = rows(1, MAX_LEN), new_state(mixer, 1)
    read(mixer, position, state, x[:, :-1])
    with Largest() as largest, torch.no_grad():
        read(mixer, position, state, x[:, -1:])
    weights = max(parameter.numel() for parameter in mixer.parameters())
    assert largest.numel <= max(MAX_LEN * (KVR + ROPE), weights) < MAX_LEN * 6 * min(NOPE, VALUE)


def test_absorbed_form_uses_the_weight_an_adapter_makes():
    mixer, position = latent_attention()
    adapter = lora.build(lora.Config(targets=("w_kv",), rank=2, alpha=2.0))
    adapter.attach(mixer)
    for parameter in mixer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    mixer, x = mixer.double().eval(), rows(1)
    state = new_state(mixer, 1)
    steps = [read(mixer, position, state, x[:, t : t + 1]) for t in range(T)]
    torch.testing.assert_close(torch.cat(steps, 1), run(mixer, position, x), atol=1e-10, rtol=0)


# ---------------------------------------------------------------- oracles


def to_hf(tensors, interleaved, q_rank=QR):
    """Our weights (or gradients) by the names of `transformers`; rotated rows in the order it wants them."""
    first = q_rank or N * (NOPE + ROPE)
    q_low, c, k_rope = tensors["latent.w_in.weight"].split([first, KVR, ROPE])
    q = (tensors["latent.w_q.weight"] if q_rank else q_low).unflatten(0, (N, NOPE + ROPE)).clone()
    if interleaved:
        back = torch.argsort(interleaved_to_half(ROPE))
        q[:, NOPE:], k_rope = q[:, NOPE:][:, back], k_rope[back]
    out = {
        "kv_a_proj_with_mqa.weight": torch.cat([c, k_rope]), "kv_a_layernorm.weight": tensors["latent.kv_norm.gain"],
        "kv_b_proj.weight": tensors["latent.w_kv.weight"], "o_proj.weight": tensors["w_o.weight"],
        "q_b_proj.weight" if q_rank else "q_proj.weight": q.flatten(0, 1),
    }  # fmt: skip
    if q_rank:
        out |= {"q_a_proj.weight": q_low, "q_a_layernorm.weight": tensors["latent.q_norm.gain"]}
    return out


SHARED = dict(
    hidden_size=D, num_attention_heads=N, num_key_value_heads=N, qk_nope_head_dim=NOPE, qk_rope_head_dim=ROPE,
    v_head_dim=VALUE, kv_lora_rank=KVR, attn_implementation="eager", num_hidden_layers=2,
)  # fmt: skip


def compare(mixer, position, reference, q_rank, interleaved, *args):
    """Output, gradient of the input and of every weight."""
    state = {name: tensor.detach() for name, tensor in mixer.named_parameters()}
    reference.double().load_state_dict(to_hf(state, interleaved, q_rank))
    mask = torch.full((T, T), float("-inf"), dtype=torch.float64).triu(1).expand(2, 1, T, T)
    x = rows(2).requires_grad_()
    theirs, _ = reference(x, *args, attention_mask=mask)
    mine = run(mixer, position, x)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
    weight = torch.randn_like(mine)
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    d_x, *d_mine = torch.autograd.grad((mine * weight).sum(), [x, *parameters])
    their_names, their_parameters = zip(*reference.named_parameters(), strict=True)
    d_x_theirs, *d_theirs = torch.autograd.grad((theirs * weight).sum(), [x, *their_parameters])
    mine_theirs = [(d_x, d_x_theirs)]
    mapped = to_hf(dict(zip(names, d_mine, strict=True)), interleaved, q_rank)
    assert sorted(mapped) == sorted(their_names)
    mine_theirs += [(mapped[name], gradient) for name, gradient in zip(their_names, d_theirs, strict=True)]
    for mine, gradient in mine_theirs:  # they normalise and rotate in float32 whatever the input
        assert (mine - gradient).abs().max() < 1e-6 * gradient.abs().max().clamp(min=1)


@pytest.mark.parametrize("q_rank", [QR, None])
@pytest.mark.parametrize("interleaved", [True, False])
def test_equals_deepseek_v3(q_rank, interleaved):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as theirs

    config = DeepseekV3Config(**SHARED, q_lora_rank=q_rank, rope_interleave=interleaved)
    cos_sin = theirs.DeepseekV3RotaryEmbedding(config)(
        torch.zeros(1, dtype=torch.float64), torch.arange(T)[None]
    )
    mixer, position = latent_attention(q_rank=q_rank)
    compare(mixer, position, theirs.DeepseekV3Attention(config, 0), q_rank, interleaved, cos_sin)


@pytest.mark.parametrize(("mscale", "all_dim"), [(1.0, 1.0), (0.707, 1.0)])
def test_equals_deepseek_v3_with_yarn(mscale, all_dim):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as theirs

    rope = {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256,
        "beta_fast": 32, "beta_slow": 1, "mscale": mscale, "mscale_all_dim": all_dim,
    }  # fmt: skip
    config = DeepseekV3Config(**SHARED, q_lora_rank=QR, rope_parameters=rope, max_position_embeddings=1024)
    cos_sin = theirs.DeepseekV3RotaryEmbedding(config)(
        torch.zeros(1, dtype=torch.float64), torch.arange(T)[None]
    )

    def t(m):
        return 0.1 * m * math.log(4.0) + 1

    mixer, _ = latent_attention(mscale=t(all_dim) ** 2)
    settings = yarn.Config(factor=4.0, original_len=256, temperature=t(mscale) / t(all_dim))
    position = yarn.build(settings, Shape(d_model=D, max_len=64, widths=mixer.rotates))
    compare(mixer, position, theirs.DeepseekV3Attention(config, 0), QR, True, cos_sin)


@pytest.mark.parametrize("q_rank", [QR, None])
def test_without_rotation_equals_kimi_linear(q_rank):
    from transformers.models.kimi_linear import modeling_kimi_linear as theirs
    from transformers.models.kimi_linear.configuration_kimi_linear import KimiLinearConfig

    config = KimiLinearConfig(**SHARED, q_lora_rank=q_rank, layer_types=["full_attention"] * 2)
    mixer, position = latent_attention(q_rank=q_rank, rotate=False)
    compare(mixer, position, theirs.KimiLinearAttention(config, 0), q_rank, False)


def test_interleaved_rows_rotate_as_half_rows():
    assert interleaved_to_half(6).tolist() == [0, 2, 4, 1, 3, 5]
    q, k = torch.randn(2, 6, dtype=torch.float64)
    angles = torch.tensor([0.3, 1.1, 2.0], dtype=torch.float64)

    def half(v, turns):
        a, b = v.chunk(2)
        return torch.cat([a * (turns * angles).cos() - b * (turns * angles).sin(),
                          b * (turns * angles).cos() + a * (turns * angles).sin()])  # fmt: skip

    def interleaved(v, turns):
        turned = torch.view_as_complex(v.view(-1, 2)) * torch.polar(torch.ones(3).double(), turns * angles)
        return torch.view_as_real(turned).flatten()

    order = interleaved_to_half(6)
    mine = half(q[order], 5) @ half(k[order], 2)
    torch.testing.assert_close(mine, interleaved(q, 5) @ interleaved(k, 2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("field", ["n_heads", "d_nope", "d_rope", "d_value", "q_rank", "kv_rank", "mscale"])
def test_sizes_must_be_positive(field):
    with pytest.raises(ValueError, match=rf"{field} \(0\) must be positive"):
        Config(**{field: 0})
