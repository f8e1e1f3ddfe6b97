"""MoBA against a dense mask made query by query; its two ends; what decoding reads; how ties are decided."""

import math

import pytest
import torch

from llm.nn.mixers.moba import Config, choose
from tests.laws.mixer_laws import MAX_LEN, D, build, new_state, read, rows, run
from tests.oracles import Largest, assert_same

GQA = {"n_heads": 4, "n_kv_heads": 2}


def choices(q_NTH, k_NTH, block, top_k):
    """The blocks each head of each query reads, as sets: the best means of full past blocks beside the own."""
    N, T, _ = q_NTH.shape
    found = {}
    for n in range(N):
        for t in range(T):
            past = range(t // block)
            mean = [k_NTH[n, c * block : (c + 1) * block].mean(0) for c in past]
            best = sorted(past, key=lambda c: (float((q_NTH[n, t] @ mean[c]).detach()), c), reverse=True)
            found[n, t] = {t // block, *best[: top_k - 1]}
    return found


def by_hand(mixer, position, x, block, top_k):
    """One document from the equations: a mask over all keys."""
    T, (N, G, H) = x.shape[1], (mixer.n_heads, mixer.n_kv_heads, mixer.d_head)
    q, k, v = mixer.w_qkv(x)[0].split([N * H, G * H, G * H], dim=-1)
    q, k, v = (z.view(T, -1, H) for z in (q, k, v))
    q, k = mixer.q_norm(q).transpose(0, 1), mixer.k_norm(k).transpose(0, 1)
    if mixer.rotates:
        angles = position.angles(torch.arange(T), x.dtype)
        q, k = position.rotate(q[None], angles)[0], position.rotate(k[None], angles)[0]
    k, v = (z.repeat_interleave(N // G, dim=0) for z in (k, v.transpose(0, 1)))
    allowed = torch.zeros(N, T, T, dtype=torch.bool)
    for (n, t), blocks in choices(q, k, block, top_k).items():
        for c in blocks:
            allowed[n, t, c * block : min((c + 1) * block, t + 1)] = True
    scores = (q @ k.mT / math.sqrt(H)).masked_fill(~allowed, float("-inf"))
    o = torch.softmax(scores, dim=-1) @ v
    return mixer.w_o(o.transpose(0, 1).flatten(1))[None]


@pytest.mark.parametrize(
    "values",
    [
        GQA | {"block": 3, "top_k": 2},
        GQA | {"block": 4, "top_k": 3, "qk_norm": True, "rotate": False},
        {"n_heads": 3, "n_kv_heads": 1, "d_head": 6, "block": 2, "top_k": 4},
        {"n_heads": 2, "n_kv_heads": 2, "block": 5, "top_k": 1},
    ],
)
def test_equals_a_dense_mask_with_gradients(values):
    mixer, position = build("moba", values)
    torch.nn.init.normal_(mixer.w_qkv.weight, std=0.3)
    x = rows(1, 29).requires_grad_()
    found, wanted = run(mixer, position, x), by_hand(mixer, position, x, values["block"], values["top_k"])
    assert_same(found, wanted, [x, *mixer.parameters()], atol=1e-12)


def dense_like(mixer):
    """gqa with the same weights."""
    dense, _ = build("gqa", GQA)
    dense.load_state_dict(mixer.state_dict())
    return dense


@pytest.mark.parametrize("top_k", [6, 7, 99])
def test_reading_all_blocks_is_gqa(top_k):
    mixer, position = build("moba", GQA | {"block": 5, "top_k": top_k})
    dense, x = dense_like(mixer), rows(2, 29).requires_grad_()
    assert_same(run(mixer, position, x), run(dense, position, x), [x], atol=1e-12)


def test_reading_all_blocks_but_one_is_not():
    mixer, position = build("moba", GQA | {"block": 5, "top_k": 5})
    x = rows(1, 29)
    difference = (run(mixer, position, x) - run(dense_like(mixer), position, x)).abs().amax(-1)[0]
    assert difference[:25].max() < 1e-12
    assert difference[25:].min() > 1e-6


def test_reading_the_own_block_alone_is_attention_to_each_block_by_itself():
    mixer, position = build("moba", GQA | {"block": 5, "top_k": 1})
    x, blocks = rows(2, 29), torch.arange(29) // 5 + 1
    wanted = run(dense_like(mixer), position, x, blocks.expand(2, -1))
    torch.testing.assert_close(run(mixer, position, x), wanted, atol=1e-12, rtol=0)


# ---------------------------------------------------------------- choice


def test_heads_of_a_group_choose_for_themselves():
    torch.manual_seed(0)
    own = torch.full((1, 1), 9)
    chosen, exists = choose(torch.randn(1, 8, 1, 4), torch.randn(1, 10, 1, 4), own, own * 0, 3)
    assert exists.all()
    assert chosen[..., 0].eq(9).all()
    assert chosen.sort(-1).values.unique(dim=1).shape[1] > 1


def test_scores_are_float32_in_a_bf16_model():
    """Two means that bf16 cannot tell apart, the larger one first (a tie would go to the later)."""
    mixer, position = build("moba", GQA | {"block": 2, "top_k": 2})
    seen = []
    mixer.bfloat16().choose = lambda q, means, *rest: (
        seen.append((q.dtype, means.dtype)) or original(q, means, *rest)
    )
    original = type(mixer).choose.__get__(mixer)
    run(mixer, position, rows(1).bfloat16())
    read(mixer, position, new_state(mixer, 1, dtype=torch.bfloat16), rows(1).bfloat16())
    assert seen == [(torch.bfloat16, torch.float32)] * 2
    means = torch.tensor([1.001, 1.0, 0.5, 0.0]).view(1, 4, 1, 1)
    own = torch.full((1, 1), 3)
    chosen, _ = choose(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), means, own, own * 0, 2)
    assert chosen.flatten().tolist() == [3, 0]


def test_of_equal_scores_the_later_block_wins_in_every_form():
    mixer, position = build("moba", GQA | {"block": 3, "top_k": 3})
    q_rows = mixer.n_heads * mixer.d_head
    torch.nn.init.zeros_(mixer.w_qkv.weight[:q_rows])  # all scores equal: the last blocks are read
    x = rows(1, 29)
    y = run(mixer, position, x)
    state = new_state(mixer, 1)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(29)], dim=1)
    torch.testing.assert_close(steps, y, atol=1e-10, rtol=0)
    other = x.clone()
    other[:, : 27 - 6] += 1
    torch.testing.assert_close(run(mixer, position, other)[:, -1], y[:, -1], atol=1e-12, rtol=0)


def test_keys_are_ranked_as_they_are_rotated():
    """Where all keys are one vector, as all queries are, a score is the mean of cos(distance)."""
    mixer, position = build("moba", {"n_heads": 1, "n_kv_heads": 1, "d_head": 2, "block": 2, "top_k": 2})
    with torch.no_grad():
        mixer.w_qkv.weight.zero_()
        mixer.w_qkv.weight[[0, 2], 0] = 1.0  # q and k: the first channel of x on the first axis
    x = torch.ones(1, 6, D, dtype=torch.float64)
    q, k, _ = mixer.project(x, position, position.angles(torch.arange(6), x.dtype))
    place = torch.arange(6)[None]
    chosen, _ = mixer.choose(q, k.transpose(1, 2).unflatten(1, (3, 2)).mean(2), place, place // 2)
    # t = 4: cos 2 + cos 1 against cos 4 + cos 3; t = 5: cos 3 + cos 2 against cos 5 + cos 4
    assert chosen[0, 0, 4:].tolist() == [[2, 1], [2, 0]]


def test_decoding_reads_only_the_chosen_blocks():
    values = {"n_heads": 2, "n_kv_heads": 2, "block": 3, "top_k": 2}
    mixer, position = build("moba", values)
    state = new_state(mixer, 1)
    x = rows(1, MAX_LEN)
    read(mixer, position, state, x[:, :-1])
    mark = state.checkpoint()
    chosen, choose_blocks = [], mixer.choose
    mixer.choose = lambda *args: chosen.append(choose_blocks(*args)) or chosen[-1]
    y = read(mixer, position, state, x[:, -1:])
    state.rollback(mark)
    H = mixer.d_head
    for g in range(2):
        mine = chosen[0][0][0, g, 0].tolist()
        others = [s for s in range(MAX_LEN) if s // 3 not in mine]
        assert len(others) > MAX_LEN // 2
        for name in "kv":
            state.tables[name][:, others, g * H : (g + 1) * H] = float("nan")
    torch.testing.assert_close(read(mixer, position, state, x[:, -1:]), y, atol=0, rtol=0)


def test_no_tensor_is_t_by_t():
    T = 1024
    values = {"n_heads": 2, "n_kv_heads": 1, "block": 16, "top_k": 3, "rotate": False}
    mixer, position = build("moba", values, position="none")
    x = rows(1, T).requires_grad_()
    with Largest() as largest:
        run(mixer, position, x, torch.ones(1, T, dtype=torch.long)).sum().backward()
    assert largest.numbers < T * T / 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block": 0}, r"block \(0\) must be positive"),
        ({"top_k": 0}, r"top_k \(0\) must be positive"),
        ({"n_heads": 3}, r"n_heads \(3\) must be a multiple of n_kv_heads \(2\)"),
    ],
)
def test_settings_that_make_no_mixer(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of n_heads \(5\)"):
        build("moba", {"n_heads": 5, "n_kv_heads": 1})
