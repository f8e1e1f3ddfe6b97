"""longformer: against the dense mask, against `transformers` prefix by prefix, in memory, and its degenerate cases."""

import math

import pytest
import torch

from llm import registry
from llm.nn.mixers.base import Site
from llm.params import ParamsError, from_dict
from tests.laws.mixer_laws import LAWS, D, build, new_state, read, rows, run

TINY = {"n_heads": 4, "n_kv_heads": 2, "window": 3, "n_global": 1, "global_every": 4}
SEGMENTS = torch.tensor([[1] * 7 + [2] * 2 + [3] * 9 + [0] * 2, [4] * 20])


def longformer(position="rope", **values):
    """A mixer whose global projections are not those of the local ones."""
    mixer, position = build("longformer", TINY | values, position=position)
    for name, parameter in mixer.named_parameters():
        if "global" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    return mixer, position


def dense(mixer, position, x, segments):
    """The equations with T x T masks; heads are repeated, every token asks with both projections."""
    N, G, H = mixer.n_heads, mixer.n_kv_heads, mixer.d_head
    T, config = x.shape[1], mixer.config
    angles = position.angles(torch.arange(T), x.dtype)
    w_q, w_k, w_v = mixer.w_qkv.weight.split([N * H, G * H, G * H])
    g_k, g_v = mixer.w_kv_global.weight.chunk(2)

    def attend(w_q, w_k, w_v, allowed):
        q, k, v = ((x @ w.T).unflatten(-1, (-1, H)).transpose(1, 2) for w in (w_q, w_k, w_v))
        q, k = position.rotate(q, angles), position.rotate(k, angles)
        k, v = k.repeat_interleave(N // G, 1), v.repeat_interleave(N // G, 1)
        scores = (q @ k.mT / math.sqrt(H)).masked_fill(~allowed[:, None], float("-inf"))
        return (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)

    marks, local, far = (torch.zeros(len(x), T, *more, dtype=torch.bool) for more in ((), (T,), (T,)))
    for b in range(len(x)):
        for i in range(T):
            own = [j for j in range(i + 1) if segments[b, j] == segments[b, i]]
            places = {j: place for place, j in enumerate(own)}
            chosen = {
                j for j, p in places.items()
                if p < config.n_global or (config.global_every and p % config.global_every == config.global_every - 1)
            }  # fmt: skip
            marks[b, i] = i in chosen
            for j in own:
                local[b, i, j] = i - j < config.window or j in chosen
                far[b, i, j] = True
    near = attend(w_q, w_k, w_v, local)
    return mixer.w_o(
        torch.where(marks[..., None], attend(mixer.w_q_global.weight, g_k, g_v, far), near)
    ), marks


@pytest.mark.parametrize(
    "values",
    [{}, {"window": 1}, {"window": 8, "n_global": 3}, {"n_global": 0}, {"global_every": 0}, {"global_every": 1}],
    ids=str,
)  # fmt: skip
def test_equals_the_dense_mask_with_gradients(values):
    mixer, position = longformer(**values)
    x = rows(2, 20).requires_grad_()
    real = SEGMENTS != 0
    wanted, _ = dense(mixer, position, x, SEGMENTS)
    found = run(mixer, position, x, SEGMENTS)
    torch.testing.assert_close(found[real], wanted[real], atol=1e-12, rtol=0)
    weight = torch.randn_like(wanted) * real[..., None]
    inputs = [x, *mixer.parameters()]
    mine = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def oracle(mixer, x, dtype):
    """`LongformerSelfAttention` reads every prefix of one row, padded at its end; the last tokens' outputs."""
    import transformers
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    w = mixer.window - 1
    config = transformers.LongformerConfig(
        hidden_size=D, num_attention_heads=4, attention_window=[2 * w], attention_probs_dropout_prob=0.0
    )
    layer = LongformerSelfAttention(config, 0).to(dtype).eval()
    names = ["query", "key", "value"]
    ours = [*mixer.w_qkv.weight.chunk(3), mixer.w_q_global.weight, *mixer.w_kv_global.weight.chunk(2)]
    for name, weight in zip([*names, *(f"{name}_global" for name in names)], ours, strict=True):
        linear = getattr(layer, name)
        linear.bias.detach().zero_()
        del linear.weight
        linear.weight = weight.to(dtype)  # no parameter of its own, so that gradients reach ours
    T = x.shape[1]
    length = -(-T // (2 * w)) * 2 * w
    index = torch.arange(length)
    real = index <= torch.arange(T)[:, None]  # prefix t is row t of one batch
    marks = mixer.config.is_global(index) & real
    prefixes = torch.nn.functional.pad(x, (0, 0, 0, length - T)).to(dtype) * real[..., None]
    [out] = layer(
        prefixes,
        attention_mask=torch.where(marks, 10000.0, torch.where(real, 0.0, -10000.0)).to(dtype),
        is_index_masked=~real,
        is_index_global_attn=marks,
        is_global_attn=bool(marks.any()),
    )
    return mixer.w_o(out[torch.arange(T), torch.arange(T)].double())[None]


@pytest.mark.parametrize(("n_global", "global_every"), [(1, 4), (0, 5), (3, 0), (2, 7)])
@pytest.mark.parametrize("w", [2, 3])
def test_equals_transformers_on_every_prefix_forward_and_gradients(n_global, global_every, w):
    mixer, position = longformer(
        n_kv_heads=4, window=w + 1, n_global=n_global, global_every=global_every, rotate=False
    )
    x = rows(1, 21).requires_grad_()
    found = run(mixer, position, x)
    wanted = oracle(mixer, x, torch.float64)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    # its softmax is always float32, where the mask of float64 is -inf: padded queries then have gradients of NaN
    wanted = oracle(mixer, x, torch.float32)
    weight, inputs = torch.randn_like(found), [x, *mixer.parameters()]
    mine = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_without_global_tokens_it_is_a_sliding_window():
    mixer, position = build("longformer", TINY | {"n_global": 0, "global_every": 0})
    other, _ = build("sliding_window", {"n_heads": 4, "n_kv_heads": 2, "window": 3})
    other.load_state_dict(mixer.state_dict())
    x = rows(2, 20)
    assert torch.equal(run(mixer, position, x, SEGMENTS), run(other, position, x, SEGMENTS))


def test_first_tokens_as_keys_are_the_sinks_of_a_sliding_window():
    mixer, position = build("longformer", TINY | {"n_global": 2, "global_every": 0})
    other, _ = build("sliding_window", {"n_heads": 4, "n_kv_heads": 2, "window": 3, "sinks": 2})
    other.load_state_dict({name: w for name, w in mixer.state_dict().items() if "global" not in name})
    x = rows(
        2, 20
    )  # nor do global queries differ: their projections are copies, and all before them is in the window
    torch.testing.assert_close(run(mixer, position, x), run(other, position, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [20, 33])
def test_a_window_as_long_as_the_row_is_full_attention_but_for_global_queries(window):
    mixer, position = longformer(window=window)
    other, _ = build("gqa", {"n_heads": 4, "n_kv_heads": 2})
    other.load_state_dict({name: w for name, w in mixer.state_dict().items() if "global" not in name})
    x = rows(2, 20)
    found, wanted = run(mixer, position, x), run(other, position, x)
    marks = mixer.config.is_global(torch.arange(20))
    torch.testing.assert_close(found[:, ~marks], wanted[:, ~marks], atol=1e-12, rtol=0)
    assert ((found - wanted)[:, marks].abs().amax(-1) > 1e-3).all()
    mixer.finish_init()  # copies of the local projections: now everything is
    torch.testing.assert_close(run(mixer, position, x), wanted, atol=1e-12, rtol=0)


def test_global_projections_start_as_copies():
    mixer, _ = build("longformer", TINY)
    assert torch.equal(mixer.w_qkv.weight, torch.cat([mixer.w_q_global.weight, mixer.w_kv_global.weight]))
    assert not [name for name, _ in build("longformer", TINY | {"n_global": 0, "global_every": 0})[0].named_parameters()
                if "global" in name]  # fmt: skip


def test_places_are_counted_from_the_start_of_the_document():
    mixer, _ = build("longformer", TINY | {"n_global": 2})
    assert mixer.config.is_global(torch.arange(13)).nonzero().flatten().tolist() == [0, 1, 3, 7, 11]


def test_a_row_without_global_tokens_gives_the_global_projections_zero_gradients():
    mixer, position = longformer(n_global=0, global_every=30)
    run(mixer, position, rows(1, 20)).sum().backward()
    assert not mixer.w_q_global.weight.grad.any()
    assert not mixer.w_kv_global.weight.grad.any()


@pytest.mark.parametrize("law", LAWS)
def test_the_laws_hold_where_global_projections_differ(law):
    LAWS[law](*longformer())  # test_mixers.py has them as copies


def test_most_steps_do_not_read_the_cache_of_all_tokens():
    mixer, position = longformer(n_global=1, global_every=8)
    x, state = rows(2, 16), new_state(mixer, 2)
    wanted = run(mixer, position, x)
    for t in range(16):
        true = {name: table.clone() for name, table in state.far.tables.items()}
        if t % 8 != 7:
            for table in state.far.tables.values():
                table.fill_(float("nan"))
        found = read(mixer, position, state, x[:, t : t + 1])
        if t:  # the first token is global
            torch.testing.assert_close(found[:, 0], wanted[:, t], atol=1e-12, rtol=0)
        for name, table in state.far.tables.items():
            table[:, :t] = true[name][:, :t]


def test_nothing_as_large_as_t_by_t_is_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                x.numel() for x in (out if isinstance(out, tuple) else [out]) if isinstance(x, torch.Tensor)
            )
            return out

    T, W, M = 1024, 16, 9
    mixer, position = longformer("none", window=W, n_global=1, global_every=128)
    with Watch():
        run(mixer, position, rows(1, T)).sum().backward()
    assert max(sizes) <= 4 * T * (2 * W + M) < T * T


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3, "n_kv_heads": 2}, r"n_heads \(3\) must be a multiple of n_kv_heads"),
        ({"window": 0}, r"window \(0\) must be positive"),
        ({"n_global": -1}, r"n_global \(-1\) must not be negative"),
        ({"global_every": -1}, r"global_every \(-1\) must not be negative"),
    ],
)
def test_wrong_configs_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(registry.module("llm.nn.mixers", "longformer").Config, values, "p")


def test_a_width_that_does_not_divide():
    module = registry.module("llm.nn.mixers", "longformer")
    site = Site(d_model=10, layer=0, n_layers=1, max_len=8, norm=None)
    with pytest.raises(ValueError, match=r"d_model \(10\) must be a multiple of n_heads \(4\)"):
        module.build(module.Config(), site)
