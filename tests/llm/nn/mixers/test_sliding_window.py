"""sliding_window: against the dense mask, against Mistral, in memory, and its degenerate cases."""

import pytest
import torch

from llm import registry
from llm.nn.kernels.attention import attend_naive
from llm.nn.kernels.banded import Table, banded_attention
from llm.nn.mixers.base import Site
from llm.params import ParamsError, from_dict
from tests.laws.mixer_laws import D, build, new_state, read, rows, run


def dense(q, k, v, window, segments=None, bias=None, first=0):
    T = q.shape[2]
    i, j = torch.arange(T)[:, None], torch.arange(T)
    allowed = ((i - j >= 0) & (i - j < window))[None]
    if segments is not None:
        same = segments[:, :, None] == segments[:, None, :]
        start = torch.stack(
            [torch.tensor([(row == number).nonzero()[0].item() for number in row]) for row in segments]
        )
        allowed = (allowed | ((i >= j) & (j < start[:, :, None] + first))) & same
    elif first:
        allowed = allowed | ((i >= j) & (j < first))[None]
    mask = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, float("-inf"))[:, None]
    return attend_naive(q, k, v, mask if bias is None else mask + bias)


@pytest.mark.parametrize(("T", "window"), [(1, 3), (7, 3), (12, 4), (13, 13), (9, 20), (17, 1)])
def test_band_equals_the_dense_mask_with_gradients(T, window):
    torch.manual_seed(0)
    q = torch.randn(2, 4, T, 6, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 2, T, 6, dtype=torch.float64, requires_grad=True) for _ in "kv")
    segments = torch.ones(2, T, dtype=torch.long)
    segments[:, T // 2 :] = 2
    for numbers in (None, segments):
        found, wanted = (
            banded_attention(q, k, v, window, segments_BT=numbers),
            dense(q, k, v, window, numbers),
        )
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
        weight = torch.randn_like(wanted)
        ours = torch.autograd.grad((found * weight).sum(), (q, k, v))
        theirs = torch.autograd.grad((wanted * weight).sum(), (q, k, v))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_first_token_inside_the_window_counts_once():
    mixer, position = build("sliding_window", {"n_heads": 4, "n_kv_heads": 2, "window": 4, "sinks": 2})
    x = rows(2, 11)
    q, k, v = mixer.project(x, position, position.angles(torch.arange(11), x.dtype))
    wanted = mixer.w_o(dense(q, k, v, 4, first=2).transpose(1, 2).flatten(2))
    torch.testing.assert_close(run(mixer, position, x), wanted, atol=1e-12, rtol=0)


def test_a_window_as_long_as_the_row_is_full_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in "qkv")
    causal = torch.full((9, 9), float("-inf"), dtype=torch.float64).triu(1)
    torch.testing.assert_close(
        banded_attention(q, k, v, 9), attend_naive(q, k, v, causal), atol=1e-12, rtol=0
    )


def test_alibi_bends_the_window():
    mixer, position = build("sliding_window", {"n_heads": 4, "n_kv_heads": 2, "window": 5}, position="alibi")
    x = rows(2, 12)
    q, k, v = mixer.project(x, position, position.angles(torch.arange(12), x.dtype))
    bias = position.bias(torch.arange(12), torch.arange(12))
    wanted = mixer.w_o(dense(q, k, v, 5, bias=bias).transpose(1, 2).flatten(2))
    torch.testing.assert_close(run(mixer, position, x), wanted, atol=1e-12, rtol=0)
    state = new_state(mixer, 2)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(12)], dim=1)
    torch.testing.assert_close(steps, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sinks", [0, 2])
def test_nothing_as_large_as_t_by_t_is_made(sinks):
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                x.numel() for x in (out if isinstance(out, tuple) else [out]) if isinstance(x, torch.Tensor)
            )
            return out

    T, W = 1024, 16
    q, k, v = torch.randn(1, 2, T, 8), torch.randn(1, 1, T, 8), torch.randn(1, 1, T, 8)
    table = None
    if sinks:
        kept = torch.randn(1, 1, sinks, 8)
        table = Table(kept, kept, torch.ones(1, T, sinks, dtype=torch.bool))
    with Watch():
        banded_attention(q, k, v, W, segments_BT=torch.ones(1, T, dtype=torch.long), table=table)
    assert max(sizes) < 2 * T * (2 * W + sinks) * 2 < T * T


def test_equals_mistral_forward_and_gradients():
    import transformers
    from transformers.models.mistral.modeling_mistral import MistralAttention, MistralRotaryEmbedding

    mixer, position = build("sliding_window", {"n_heads": 4, "n_kv_heads": 2, "window": 6})
    config = transformers.MistralConfig(
        hidden_size=D, num_attention_heads=4, num_key_value_heads=2, head_dim=D // 4, sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, attn_implementation="eager",
        num_hidden_layers=1,
    )  # fmt: skip
    layer = MistralAttention(config, 0).double()
    q, k, v = mixer.w_qkv.weight.split([D, D // 2, D // 2])
    state = {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "o_proj.weight": mixer.w_o.weight}
    layer.load_state_dict(state)
    x = rows(2, 23)
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    places = torch.arange(23)
    rotary = MistralRotaryEmbedding(config)(yours, places[None])
    mask = transformers.masking_utils.create_sliding_window_causal_mask(
        config=config,
        inputs_embeds=yours,
        attention_mask=None,
        past_key_values=None,
        position_ids=places[None],
    )
    wanted, _ = layer(yours, rotary, mask)
    found = run(mixer, position, mine)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(mine.grad, yours.grad, atol=1e-6, rtol=0)


def test_state_does_not_depend_on_the_length():
    mixer, _ = build("sliding_window", {"window": 4})
    assert new_state(mixer, 1, 16).nbytes == new_state(mixer, 1, 1 << 20).nbytes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3, "n_kv_heads": 2}, r"n_heads \(3\) must be a multiple of n_kv_heads"),
        ({"window": 0}, r"window \(0\) must be positive"),
        ({"sinks": -1}, r"sinks \(-1\) must not be negative"),
    ],
)
def test_wrong_configs_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(registry.module("llm.nn.mixers", "sliding_window").Config, values, "p")


def test_a_width_that_does_not_divide():
    module = registry.module("llm.nn.mixers", "sliding_window")
    site = Site(d_model=10, layer=0, n_layers=1, max_len=8, norm=None)
    with pytest.raises(ValueError, match=r"d_model \(10\) must be a multiple of n_heads \(4\)"):
        module.build(module.Config(), site)
