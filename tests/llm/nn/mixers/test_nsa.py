"""NSA against fla, and against three dense masks written from the equations; its degenerate cases and its cache."""

import math
import sys
import types

import pytest
import torch

from llm.nn.kernels import selected
from llm.nn.mixers.nsa import Config, Summary
from tests.laws.mixer_laws import MAX_LEN, D, build, new_state, read, rows, run
from tests.oracles import Largest, assert_same, fla

SMALL = {"n_heads": 4, "n_kv_heads": 2, "block": 4, "stride": 2, "select": 6, "top_k": 4, "window": 5}


def sharp(values, **kwargs):
    """A mixer whose weights are large enough for sharp choices."""
    mixer, position = build("nsa", values, **kwargs)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return mixer, position


# ---------------------------------------------------------------- the equations, one query at a time


def summarise(net, x_lH):
    """One block to one vector, by hand."""
    if not isinstance(net, Summary):
        return x_lH.mean(0)
    hidden = net.w_in.weight @ (x_lH + net.place_lH).flatten()
    return net.w_out.weight @ (hidden * torch.sigmoid(hidden))


def importance(probs_J, block, select, stride, number):
    """The sum over the strides of one selected block of all summaries that hold it: the double sum of the paper."""
    total = 0.0
    for tokens in range(number * select, (number + 1) * select, stride):
        for j, p in enumerate(probs_J):
            total += float(p) * (j * stride <= tokens < j * stride + block)
    return total


def attention(q, keys, values):
    if not keys:
        return torch.zeros_like(q)
    probs = torch.softmax(torch.stack(keys) @ q / math.sqrt(len(q)), 0)
    return probs @ torch.stack(values)


def chosen_blocks(summed, own, values):
    """Own, previous, first, and of the others the most important; of equal ones the later."""
    block, select, stride = (values[name] for name in ("block", "select", "stride"))
    forced = {own, max(own - 1, 0), 0}
    others = [b for b in range(own) if b not in forced]
    others.sort(key=lambda b: (torch.tensor(importance(summed, block, select, stride, b)).float().item(), b))
    return sorted(forced | set(others[::-1][: values["top_k"] - 3]))


def by_hand(mixer, position, x, values):
    """One document."""
    T, (N, G, H) = x.shape[1], (mixer.n_heads, mixer.n_kv_heads, mixer.d_head)
    angles = position.angles(torch.arange(T), x.dtype)
    R, (l, s, select) = N // G, (mixer.block, mixer.stride, mixer.select)
    w_q, *w_kv = mixer.w_qkv.weight.split([N * H, *[G * H] * (6 if mixer.separate_kv else 2)])

    def turned(z_TnH):
        return (
            position.rotate(z_TnH.transpose(0, 1)[None], angles)[0].transpose(0, 1)
            if mixer.rotates
            else z_TnH
        )

    def heads(weight):
        return (x[0] @ weight.T).view(T, -1, H)

    q = mixer.q_norm(heads(w_q))
    pairs = [(mixer.k_norm(heads(k)), heads(v)) for k, v in zip(w_kv[::2], w_kv[1::2], strict=True)]
    (k_far, v_far), (k_full, v_full), (k_near, v_near) = (pairs * 3)[:3]
    q_turned, k_full, k_near = turned(q), turned(k_full), turned(k_near)
    gates = torch.sigmoid(x[0] @ mixer.w_gate.weight.T).view(T, 3, N)
    out = []
    for t in range(T):
        for g in range(G):
            starts = [c * s for c in range(T) if c * s + l - 1 <= t]
            sums_k = [summarise(mixer.sum_k, k_far[a : a + l, g]) for a in starts]
            sums_v = [summarise(mixer.sum_v, v_far[a : a + l, g]) for a in starts]
            heads_of_group = range(g * R, (g + 1) * R)
            summed = 0
            for n in heads_of_group:
                if starts:
                    summed = summed + torch.softmax(torch.stack(sums_k) @ q[t, n] / math.sqrt(H), 0).detach()
            blocks = chosen_blocks(summed if starts else [], t // select, values)
            tokens = [i for b in blocks for i in range(b * select, min((b + 1) * select, t + 1))]
            window = range(max(0, t - mixer.window + 1), t + 1)
            for n in heads_of_group:
                far = attention(q[t, n], sums_k, sums_v)
                full = attention(q_turned[t, n], list(k_full[tokens, g]), list(v_full[tokens, g]))
                near = attention(
                    q_turned[t, n], [k_near[i, g] for i in window], [v_near[i, g] for i in window]
                )
                out.append(gates[t, 0, n] * far + gates[t, 1, n] * full + gates[t, 2, n] * near)
    return mixer.w_o(torch.stack(out).view(T, N * H))[None]


@pytest.mark.parametrize("numbers", [1 << 19, 60], ids=["one_tile", "tiles"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block": 2, "stride": 2, "select": 2, "top_k": 5},
        {"block": 8, "stride": 4, "select": 4, "summary": "mean", "window": 40},
        {"block": 6, "stride": 2, "select": 4, "top_k": 3, "separate_kv": False, "qk_norm": True},
        {"block": 3, "stride": 1, "select": 2, "top_k": 6, "rotate": False, "n_heads": 3, "n_kv_heads": 1},
        {"block": 9, "stride": 3, "select": 3, "top_k": 5, "n_kv_heads": 4, "separate_kv": False},
    ],
)
def test_equals_the_equations_with_gradients(monkeypatch, changes, numbers):
    monkeypatch.setattr(selected, "TILE_NUMBERS", numbers)
    values = SMALL | changes
    mixer, position = sharp(values)
    x = rows(1, 31).requires_grad_()
    found, wanted = run(mixer, position, x), by_hand(mixer, position, x, values)
    assert_same(found, wanted, [x, *mixer.parameters()], atol=1e-11)


# ---------------------------------------------------------------- fla


def naive(window):
    """The reference file of fla, with the three names it asks for."""

    def mean_pooling(x, size, _):
        return torch.stack([part.mean(1) for part in x.split(size, dim=1)], dim=1)

    def windowed(q, k, v, *, causal, window_size):
        assert causal
        k, v = (z.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for z in (k, v))
        i = torch.arange(q.shape[1])
        seen = (i[:, None] >= i) & (i[:, None] - i <= window_size[0])
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~seen, -math.inf).softmax(-1), v)

    stubs = {
        name: types.ModuleType(name) for name in ("fla", "fla.ops", "fla.ops.utils", "fla.ops.utils.pooling")
    }
    stubs["fla.ops.utils"].prepare_chunk_offsets = None
    stubs["fla.ops.utils.pooling"].mean_pooling = mean_pooling
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        module = fla("ops/nsa/naive.py")
    module.flash_attn_func = windowed
    return module


@pytest.mark.parametrize(("size", "top_k", "window", "T"), [(4, 4, 5, 31), (2, 6, 3, 24), (8, 3, 40, 32)])
def test_equals_fla_with_gradients_and_choices(size, top_k, window, T):
    N, G, H = 32, 2, 6
    values = {
        "n_heads": N, "n_kv_heads": G, "d_head": H, "block": size, "stride": size, "select": size,
        "top_k": top_k, "window": window, "summary": "mean", "separate_kv": False, "rotate": False,
    }  # fmt: skip
    mixer, position = sharp(values)
    x = rows(2, T).requires_grad_()
    q, k, v = mixer.w_qkv(x).unflatten(-1, (-1, H)).split([N, G, G], dim=2)
    gates = torch.sigmoid(mixer.w_gate(x)).unflatten(-1, (3, N)).unbind(2)
    wanted, blocks = naive(window).naive_nsa(
        q, k, v, *gates, block_counts=top_k, block_size=size, window_size=window, return_block_indices=True
    )
    limits = []
    attend_far = mixer.attend_far
    mixer.attend_far = lambda *args: limits.append(attend_far(*args)) or limits[-1]
    found = run(mixer, position, x)
    # they compute in float32
    assert_same(found, mixer.w_o(wanted.flatten(2)), [x, *mixer.parameters()], atol=2e-6)
    _, chosen, limit = limits[0]
    mine = chosen.masked_fill(limit < 0, -1).transpose(1, 2)
    for b in range(2):
        for t in range(T):
            for g in range(G):
                assert set(mine[b, t, g].tolist()) | {-1} == set(blocks[b, t, g].tolist()) | {-1}


# ---------------------------------------------------------------- degenerate cases


def only(mixer, branch):
    """The mixer with one gate open and two shut."""
    mixer.mix = lambda x, *three: mixer.w_o(three[branch].transpose(1, 2).flatten(2))


def dense_like(mixer, kind="gqa", branch=0, **values):
    dense, _ = build(kind, {"n_heads": 4, "n_kv_heads": 2} | values)
    q, *pairs = mixer.w_qkv.weight.split(mixer.w_qkv.weight.parts)
    with torch.no_grad():
        dense.w_qkv.weight.copy_(torch.cat([q, *pairs[2 * branch : 2 * branch + 2]]))
        dense.w_o.weight.copy_(mixer.w_o.weight)
    return dense


@pytest.mark.parametrize("top_k", [5, 9])
def test_choosing_all_blocks_is_full_attention(top_k):
    mixer, position = sharp(SMALL | {"top_k": top_k})
    only(mixer, 1)
    dense, x = dense_like(mixer, branch=1), rows(2, 30).requires_grad_()
    assert_same(run(mixer, position, x), run(dense, position, x), [x], atol=1e-12)


def test_choosing_all_but_one_is_not():
    mixer, position = sharp(SMALL)
    only(mixer, 1)
    x = rows(1, 30)
    difference = (run(mixer, position, x) - run(dense_like(mixer, branch=1), position, x)).abs().amax(-1)[0]
    assert difference[:24].max() < 1e-12
    assert difference[24:].min() > 1e-9


def test_the_third_branch_is_a_sliding_window():
    mixer, position = sharp(SMALL)
    only(mixer, 2)
    dense, x = dense_like(mixer, "sliding_window", branch=2, window=5), rows(2, 30).requires_grad_()
    assert_same(run(mixer, position, x), run(dense, position, x), [x], atol=1e-12)


def test_summaries_of_single_tokens_are_full_attention_without_rotation():
    mixer, position = sharp(SMALL | {"block": 1, "stride": 1, "summary": "mean"})
    only(mixer, 0)
    dense, x = dense_like(mixer, rotate=False), rows(2, 30).requires_grad_()
    assert_same(run(mixer, position, x), run(dense, position, x), [x], atol=1e-12)


def test_without_a_complete_block_the_first_branch_gives_nothing():
    mixer, position = sharp(SMALL)
    only(mixer, 0)
    x = rows(2, 30)
    y = run(mixer, position, x)
    assert torch.equal(y[:, : SMALL["block"] - 1], torch.zeros(2, 3, D).double())
    assert y[:, SMALL["block"] - 1 :].abs().amax(-1).min() > 0


# ---------------------------------------------------------------- choice


def test_importance_of_an_example_of_the_paper():
    """l = 32, s = 16, l' = 64: summaries 4 j - 1 .. 4 j + 3 weigh 1, 2, 2, 2, 1 for block j."""
    values = {"block": 32, "stride": 16, "select": 64, "top_k": 4}
    mixer, _ = build("nsa", values)
    place = torch.tensor([[64 * 6]])
    for j in range(1, 5):
        for summary, weight in zip(range(4 * j - 1, 4 * j + 4), (1, 2, 2, 2, 1), strict=True):
            share = torch.zeros(1, 1, 1, 23).double()
            share[..., 4 * j] = 0.01  # a summary at an edge weighs as much for the neighbour
            share[..., summary] += 1.0
            rival = 1 if j > 2 else 4  # a block that this summary does not touch
            share[..., 4 * rival + 1] = (weight - 0.5) / 2  # its weight is 2
            found, _ = mixer.choose(share, place, place // 64, place * 0, 7)
            assert found.flatten().tolist() == [6, 5, 0, j], (j, summary)
            share[..., 4 * rival + 1] = (weight + 0.5) / 2
            found, _ = mixer.choose(share, place, place // 64, place * 0, 7)
            assert found.flatten().tolist() == [6, 5, 0, rival], (j, summary)


def test_all_heads_of_a_group_read_the_same_blocks_and_groups_their_own():
    mixer, position = sharp(SMALL | {"n_heads": 6, "n_kv_heads": 2, "select": 2, "top_k": 5, "qk_norm": True})
    seen = []
    by_head = mixer.by_head
    mixer.by_head = lambda x: seen.append(by_head(x)) or seen[-1]
    run(mixer, position, rows(1, 31))
    chosen, limit = seen
    sets = [
        [set(c[m >= 0].tolist()) for c, m in zip(chosen[0, n], limit[0, n], strict=True)] for n in range(6)
    ]
    assert sets[0] == sets[1] == sets[2] != sets[3] == sets[4] == sets[5]
    for t, blocks in enumerate(sets[0]):
        assert {0, t // 2, max(0, t // 2 - 1)} <= blocks <= set(range(t // 2 + 1))
        assert len(blocks) == min(5, t // 2 + 1)


def test_of_equally_important_blocks_the_later_wins_in_every_form():
    mixer, position = sharp(SMALL | {"select": 2, "top_k": 5, "summary": "mean"})
    only(mixer, 1)
    with torch.no_grad():
        mixer.w_qkv.weight[: 5 * D // 2][D : D + D // 2] = 0  # keys of the summaries: all alike
    x = rows(1, 29)
    y = run(mixer, position, x)
    state = new_state(mixer, 1)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(29)], dim=1)
    torch.testing.assert_close(steps, y, atol=1e-10, rtol=0)


# ---------------------------------------------------------------- memory and cache


@pytest.mark.parametrize("packed", [False, True])
def test_no_tensor_is_t_by_t(packed):
    T = 1024
    values = {"n_heads": 2, "n_kv_heads": 1, "block": 16, "stride": 8, "select": 16, "top_k": 4, "window": 16}
    mixer, position = build("nsa", values | {"rotate": False}, position="none")
    x = rows(1, T).requires_grad_()
    with Largest() as largest:
        run(mixer, position, x, torch.ones(1, T, dtype=torch.long) if packed else None).sum().backward()
    assert largest.numbers < T * T / 2


@pytest.mark.parametrize("separate", [True, False])
def test_decoding_reads_only_the_chosen_blocks_and_the_window(separate):
    values = {"n_heads": 4, "n_kv_heads": 1, "block": 2, "stride": 2, "select": 2, "top_k": 4, "window": 3}
    mixer, position = sharp(values | {"separate_kv": separate})
    state = new_state(mixer, 1)
    x = rows(1, MAX_LEN)
    read(mixer, position, state, x[:, :-1])
    mark = state.checkpoint()
    chosen, attend_far = [], mixer.attend_far
    mixer.attend_far = lambda *args: chosen.append(attend_far(*args)) or chosen[-1]
    y = read(mixer, position, state, x[:, -1:])
    state.rollback(mark)
    mine = chosen[0][1].flatten().tolist()
    others = [s for s in range(MAX_LEN - 3) if s // 2 not in mine]
    assert len(others) > MAX_LEN // 2
    for name in "kv":
        state.tables[name][:, others] = float("nan")
    torch.testing.assert_close(read(mixer, position, state, x[:, -1:]), y, atol=0, rtol=0)


def test_the_state_grows_by_two_rows_a_token_and_one_summary_a_stride():
    mixer, _ = build("nsa", SMALL)
    width = 2 * mixer.n_kv_heads * mixer.d_head * 8
    sizes = [new_state(mixer, 1, room).nbytes for room in (100, 102, 200)]
    assert sizes[1] - sizes[0] == 3 * width
    assert sizes[2] - sizes[0] == 150 * width


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3}, r"n_heads \(3\) must be a multiple of n_kv_heads \(2\)"),
        ({"stride": 0}, r"stride \(0\) must be positive"),
        ({"window": 0}, r"window \(0\) must be positive"),
        ({"block": 12}, r"block \(12\) must be a multiple of stride \(8\)"),
        ({"select": 4}, r"select \(4\) must be a multiple of stride \(8\)"),
        ({"top_k": 2}, r"top_k \(2\) must be at least 3: own, previous and first block"),
    ],
)
def test_settings_that_make_no_mixer(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of n_heads \(5\)"):
        build("nsa", {"n_heads": 5, "n_kv_heads": 1})
