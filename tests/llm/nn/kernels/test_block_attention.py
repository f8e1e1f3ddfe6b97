"""block_attention: against a dense mask forward and backward, in memory, and what a cache is read of."""

import pytest
import torch

from llm.nn.kernels import block_attention, selected
from llm.nn.kernels.attention import attend_naive
from llm.nn.kernels.block_attention import attend_blocks, attend_blocks_cached, pair_up
from tests.oracles import Largest, assert_same, draw

B, N, G, H, V = 2, 6, 2, 5, 3


def choices(T, blocks, C, K, *, seed=0):
    """For every query K different blocks in random order, of which the first counts and others may."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(B, N, T, blocks, generator=generator).argsort(-1)[..., :K]
    limit = torch.randint(-1, C, (B, N, T, K), generator=generator)
    limit[..., 0] = limit[..., 0].clamp_min(0)
    return chosen, limit


def dense(q, k_BcCGH, v_BcCGV, chosen, limit):
    """The same as a mask over all keys."""
    blocks, C = k_BcCGH.shape[1:3]
    T, K = chosen.shape[2:]
    allowed = torch.zeros(B, N, T, blocks * C, dtype=torch.bool)
    for b, n, t, j in torch.cartesian_prod(*(torch.arange(i) for i in (B, N, T, K))).tolist():
        begin = int(chosen[b, n, t, j]) * C
        allowed[b, n, t, begin : begin + int(limit[b, n, t, j]) + 1] = True
    mask = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, float("-inf"))
    return attend_naive(q, *(x.flatten(1, 2).transpose(1, 2) for x in (k_BcCGH, v_BcCGV)), mask)


@pytest.mark.parametrize("numbers", [1 << 19, 1], ids=["one_range", "ranges"])
@pytest.mark.parametrize(
    ("T", "blocks", "C", "K"), [(1, 1, 1, 1), (7, 4, 3, 2), (50, 3, 4, 3), (9, 11, 2, 5)]
)
def test_equals_a_dense_mask_with_gradients(monkeypatch, T, blocks, C, K, numbers):
    monkeypatch.setattr(selected, "TILE_NUMBERS", numbers)
    q, k, v = (
        draw(B, N, T, H, seed=1),
        draw(B, blocks, C, G, H, seed=2),
        draw(B, blocks, C, G, V, seed=3),
    )
    chosen, limit = choices(T, blocks, C, K)
    assert_same(attend_blocks(q, k, v, chosen, limit), dense(q, k, v, chosen, limit), [q, k, v], atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    q, k, v = draw(B, N, 4, H), draw(B, 3, 2, G, H, seed=2), draw(B, 3, 2, G, V, seed=3)
    chosen, limit = choices(4, 3, 2, 2)
    assert torch.autograd.gradcheck(lambda *x: attend_blocks(*x, chosen, limit), (q, k, v), fast_mode=True)


def test_large_scores_do_not_overflow():
    q, k, v = 300 * draw(B, N, 7, H), 300 * draw(B, 4, 3, G, H, seed=2), draw(B, 4, 3, G, V, seed=3)
    chosen, limit = choices(7, 4, 3, 2)
    found, wanted = (form(q, k, v, chosen, limit) for form in (attend_blocks, dense))
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_pairs_begin_a_tile_with_every_block_and_occur_once():
    chosen, limit = choices(50, 4, 3, 3)
    pairs = pair_up(chosen, limit, G, 4)
    nobody = chosen.numel()
    real = pairs.pair_nQ[pairs.pair_nQ != nobody]
    assert sorted(real.tolist()) == (limit >= 0).flatten().nonzero()[:, 0].tolist()
    assert pairs.limit_nQ[pairs.pair_nQ == nobody].eq(-1).all()
    assert len(pairs.block_n) <= len(real) // block_attention.TILE + B * G * 4


@pytest.mark.parametrize("heads", [N, G])
def test_a_cache_is_read_where_chosen_and_nowhere_else(heads):
    T, blocks, C, K = 2, 5, 3, 2
    room = blocks * C - 1  # the last block is not full, and not whole in the cache
    q, k, v = draw(B, N, T, H), draw(B, room, G, H, seed=2), draw(B, room, G, V, seed=3)
    chosen, limit = choices(T, blocks, C, K)
    chosen, limit = chosen[:, :: N // heads], limit[:, :: N // heads]
    limit = torch.where(chosen == blocks - 1, limit.clamp_max(C - 2), limit)
    by_head = [x.repeat_interleave(N // heads, dim=1) for x in (chosen, limit)]
    tables = [torch.cat([x, x[:, :1]], dim=1).unflatten(1, (blocks, C)) for x in (k, v)]
    found = attend_blocks_cached(q, k, v, chosen, limit, C)
    torch.testing.assert_close(found, dense(q, *tables, *by_head), atol=1e-12, rtol=0)

    spoilt = [x.detach().clone() for x in (k, v)]
    read = torch.zeros(B, G, blocks, dtype=torch.bool)
    for b, n, t, j in torch.cartesian_prod(*(torch.arange(i) for i in (B, N, T, K))).tolist():
        read[b, n * G // N, by_head[0][b, n, t, j]] = True
    unread = (~read).repeat_interleave(C, dim=2)[:, :, :room].transpose(1, 2)
    for x in spoilt:
        x[unread] = float("nan")
    assert unread.any()
    torch.testing.assert_close(attend_blocks_cached(q, *spoilt, chosen, limit, C), found, atol=0, rtol=0)


def test_no_tensor_is_t_by_t_in_either_pass():
    T, C, K = 2048, 16, 3
    q, k, v = draw(1, 2, T, 8), draw(1, T // C, C, 1, 8), draw(1, T // C, C, 1, 8)
    own = torch.arange(T) // C
    chosen = torch.stack([own, (own - 1).clamp_min(0), own * 0], dim=-1).expand(1, 2, T, K)
    limit = torch.stack([torch.arange(T) % C, (own > 0) * C - 1, (own > 1) * C - 1], dim=-1).expand(
        1, 2, T, K
    )
    with Largest() as largest:
        attend_blocks(q, k, v, chosen, limit).sum().backward()
    assert largest.numbers < T * T // 4
