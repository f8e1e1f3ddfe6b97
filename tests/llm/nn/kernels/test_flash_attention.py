"""Tiled attention against the equation, PyTorch's kernel and its own promises about memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llm.nn.kernels.attention import MatmulAttention, attend_naive, full_mask
from llm.nn.kernels.flash_attention import Tiles, Visible, first_visible, flash_attention
from llm.nn.mixers.base import segment_mask

TILES = [
    Tiles(queries=4, keys=4),
    Tiles(queries=5, keys=7),
    Tiles(queries=16, keys=8),
    Tiles(queries=128, keys=256),
]
LENGTHS = [1, 2, 7, 33, 64]
SEGMENTS = {1: [[1]], 2: [[1, 2]], 7: [[1, 1, 2, 2, 2, 3, 0]]}


def inputs(T, *, B=2, N=6, G=3, H=8, V=5, dtype=torch.float64):
    torch.manual_seed(T)
    return [torch.randn(B, n, T, w, dtype=dtype, requires_grad=True) for n, w in ((N, H), (G, H), (G, V))]


def documents(T, B=2):
    """Rows of several documents, padded at the end, cut at different places."""
    generator = torch.Generator().manual_seed(T)
    numbers = torch.randint(0, 4, (B, T), generator=generator)
    return torch.sort(torch.where(numbers == 0, 9, numbers), dim=1).values % 9  # 1 1 2 3 3 0 0


def window_mask(T, window):
    distance = torch.arange(T)[:, None] - torch.arange(T)
    return torch.zeros(T, T, dtype=torch.float64).masked_fill(
        (distance < 0) | (distance >= window), -math.inf
    )


def mask_of(case, q):
    """The dense additive mask of a case and the arguments that say the same to the tiled form."""
    T = q.shape[2]
    bias_NTS = torch.randn(q.shape[1], T, T, dtype=q.dtype)
    match case:
        case "causal":
            return full_mask(q, None, None), {}
        case "documents":
            segments = documents(T)
            return segment_mask(segments, q.dtype), {"segments_BT": segments}
        case "window":
            return window_mask(T, 5), {"window": 5}
        case "documents in a window":
            segments = documents(T)
            return segment_mask(segments, q.dtype) + window_mask(T, 3), {"segments_BT": segments, "window": 3}
        case "bias":
            return full_mask(q, None, bias_NTS), {"bias": bias_NTS}
        case "bias of rows and documents":
            segments, bias = documents(T), torch.randn(2, 1, T, T, dtype=q.dtype)
            return segment_mask(segments, q.dtype) + bias, {"segments_BT": segments, "bias": bias}
        case "bias of keys":
            bias = torch.randn(2, 1, 1, T, dtype=q.dtype)
            return full_mask(q, None, None) + bias, {"bias": bias}


CASES = [
    "causal",
    "documents",
    "window",
    "documents in a window",
    "bias",
    "bias of rows and documents",
    "bias of keys",
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tiles", TILES, ids=lambda tiles: f"{tiles.queries}x{tiles.keys}")
@pytest.mark.parametrize("T", LENGTHS)
def test_output_log_sum_exp_and_gradients_equal_the_equation(T, tiles, case):
    q, k, v = inputs(T)
    mask, arguments = mask_of(case, q)
    out, lse = flash_attention(q, k, v, tiles=tiles, **arguments)
    wanted = attend_naive(q, k, v, mask)
    scores = q @ k.repeat_interleave(2, dim=1).mT / math.sqrt(8) + mask
    torch.testing.assert_close(out, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-12, rtol=0)
    d_out, d_lse = torch.randn_like(out), torch.randn_like(lse)
    ours = torch.autograd.grad((out * d_out).sum() + (lse * d_lse).sum(), (q, k, v))
    theirs = torch.autograd.grad((wanted * d_out).sum() + (scores.logsumexp(-1) * d_lse).sum(), (q, k, v))
    for mine, his in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, his, atol=1e-12, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_equal_to_sdpa_with_gradients(packed):
    q, k, v = inputs(50, V=8)
    segments = documents(50) if packed else None
    mask = None if segments is None else segment_mask(segments, q.dtype)
    ours = flash_attention(q, k, v, segments_BT=segments, tiles=Tiles(queries=8, keys=16))[0]
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    d_out = torch.randn_like(ours)
    for mine, his in zip(
        *(torch.autograd.grad((y * d_out).sum(), (q, k, v)) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, his, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [None, 9])
def test_equal_to_fla_naive_with_gradients(window):
    naive = load_fla_naive()
    q, k, v = inputs(30, V=8)
    ours = flash_attention(q, k, v, window=window, tiles=Tiles(queries=8, keys=4))[0]
    theirs = naive(*(x.transpose(1, 2) for x in (q, k, v)), window_size=window)
    theirs = (theirs[0] if isinstance(theirs, tuple) else theirs).transpose(1, 2)
    torch.testing.assert_close(ours, theirs.double(), atol=1e-5, rtol=0)  # float32 inside
    d_out = torch.randn_like(ours)
    for mine, his in zip(
        *(torch.autograd.grad((y.double() * d_out).sum(), (q, k, v)) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, his, atol=1e-5, rtol=0)


def load_fla_naive():
    import importlib.util
    from importlib.metadata import distribution

    path = distribution("fla-core").locate_file("fla/ops/attn/naive.py")
    spec = importlib.util.spec_from_file_location("fla_attn_naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.naive_parallel_attn


def test_gradients_are_those_of_finite_differences():
    q, k, v = inputs(6, B=1, N=2, G=1, H=3, V=2)
    segments = torch.tensor([[1, 1, 2, 2, 2, 0]])
    tiles = Tiles(queries=2, keys=4)
    assert torch.autograd.gradcheck(
        lambda q, k, v: flash_attention(q, k, v, segments_BT=segments, tiles=tiles), (q, k, v)
    )


@pytest.mark.parametrize("tiles", TILES[:3], ids=lambda tiles: f"{tiles.queries}x{tiles.keys}")
def test_a_row_that_sees_nothing_gives_zero_and_no_gradient(tiles):
    q, k, v = inputs(9)
    bias = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    bias[:, :, 3] = -math.inf
    bias[:, :, :, 0] = -math.inf  # so query 0, which sees key 0 alone, sees nothing either
    out, lse = flash_attention(q, k, v, bias=bias, tiles=tiles)
    for row in (0, 3):
        assert out[:, :, row].eq(0).all()
        assert lse[:, :, row].eq(-math.inf).all()
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0][:, :, 3].eq(0).all()
    assert grads[1][:, :, 0].eq(0).all()
    assert grads[2][:, :, 0].eq(0).all()
    theirs = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias + full_mask(q, None, None), enable_gqa=True
    )
    torch.testing.assert_close(out, theirs, atol=1e-12, rtol=0)


def test_huge_scores_do_not_overflow():
    q, k, v = inputs(20, dtype=torch.float32)
    out = flash_attention(q * 1e4, k * 1e4, v, tiles=Tiles(queries=4, keys=4))[0]
    assert out.isfinite().all()
    torch.testing.assert_close(out, attend_naive(q * 1e4, k * 1e4, v, full_mask(q, None, None)))


def test_bf16_is_as_close_to_float64_as_whole_matrices_are():
    q, k, v = (x.detach().bfloat16() for x in inputs(300, V=8))
    exact = attend_naive(*(x.double() for x in (q, k, v)), full_mask(q.double(), None, None))
    ours, lse = flash_attention(q, k, v)
    assert ours.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    whole = MatmulAttention.apply(q, k, v, full_mask(q, None, None))
    sdpa = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # scores in float32
    error = [(y - exact).abs().mean() for y in (ours, whole, sdpa)]
    assert error[0] < 1.05 * error[1]
    assert error[0] < 2 * error[2]


def test_scale_of_ones_own():
    q, k, v = inputs(11)
    ours = flash_attention(q, k, v, scale=0.3, tiles=Tiles(queries=4, keys=4))[0]
    torch.testing.assert_close(ours, attend_naive(q, k, v, full_mask(q, None, None), 0.3), atol=1e-12, rtol=0)


def test_split_keys_merge_by_their_log_sum_exp():
    """What the log-sum-exp is for: attention over two halves of the keys, joined exactly."""
    q, k, v = inputs(16)
    whole, _ = flash_attention(q, k, v)
    halves = []
    for hidden in (slice(0, 8), slice(8, 16)):
        bias = torch.zeros(1, 1, 1, 16, dtype=torch.float64)
        bias[..., hidden] = -math.inf
        halves.append(flash_attention(q, k, v, bias=bias))
    (a, la), (b, lb) = halves
    total = torch.logaddexp(la, lb)
    joined = a * (la - total).exp()[..., None] + b * (lb - total).exp()[..., None]
    torch.testing.assert_close(joined, whole, atol=1e-12, rtol=0)


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes, in numbers."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [
            leaf.numel()
            for leaf in tree_leaves(out)
            if isinstance(leaf, torch.Tensor) and leaf.is_contiguous()
        ]
        self.numel = max([self.numel, *made])
        return out


def largest_tensor(T, tiles, **arguments):
    q, k, v = inputs(T, B=1, N=2, G=1, H=4, V=4, dtype=torch.float32)
    with Largest() as seen:
        flash_attention(q, k, v, tiles=tiles, **arguments)[0].sum().backward()
    return seen.numel


def test_no_tensor_is_larger_than_a_tile_or_the_inputs():
    tiles = Tiles(queries=32, keys=64)
    for T in (256, 1024):
        for arguments in ({}, {"segments_BT": torch.arange(T)[None] // 100 + 1}, {"window": 40}):
            assert largest_tensor(T, tiles, **arguments) <= max(2 * 32 * 64, 2 * T * 4)
    assert (
        largest_tensor(1024, Tiles(queries=1024, keys=1024)) == 2 * 1024 * 1024
    )  # the measure sees a matrix


def test_kept_for_the_backward_pass_is_linear_in_the_length():
    def kept(T):
        q, k, v = inputs(T)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            flash_attention(q, k, v)[0].sum()
        return sum(sizes)

    assert kept(256) == 2 * kept(128)


@pytest.mark.parametrize(
    ("arguments", "tiles_seen"),
    [
        ({}, 8 * 9 / 2),
        ({"window": 16}, 8 + 7),
        ({"window": 1}, 8),
        ({"segments_BT": torch.arange(128)[None] // 16 + 1}, 8),
        ({"segments_BT": torch.zeros(1, 128, dtype=torch.long)}, 8),
    ],
)
def test_tiles_nobody_sees_are_not_looked_at(arguments, tiles_seen):
    first = first_visible(128, arguments.get("segments_BT"), arguments.get("window"), torch.device("cpu"))
    tiles = Tiles(queries=16, keys=16)
    assert sum(len(keys) for *_, keys in Visible.of(first, None, tiles).query_tiles()) == tiles_seen


def test_a_tile_without_hidden_keys_is_not_masked():
    whole = [
        (tile.i0, tile.j0)
        for *_, tiles in Visible.of(
            first_visible(12, None, None, torch.device("cpu")), None, Tiles(queries=4, keys=4)
        ).query_tiles()
        for tile in tiles
        if tile.whole
    ]
    assert whole == [(4, 0), (8, 0), (8, 4)]


def test_without_gradients_nothing_is_kept():
    q, k, v = inputs(20)
    with torch.no_grad():
        out, _ = flash_attention(q, k, v)
    assert out.grad_fn is None
    kept, _ = flash_attention(q, k, v)
    assert kept.grad_fn is not None
    torch.testing.assert_close(out, kept, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, r"window \(0\) must be positive"),
        ({"bias": torch.zeros(5, 5, requires_grad=True)}, "bias gets no gradient here; use attend_naive"),
    ],
)
def test_what_is_refused(arguments, message):
    q, k, v = inputs(5, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        flash_attention(q, k, v, **arguments)


def test_heads_that_cannot_share_and_empty_tiles_are_refused():
    q, k, v = inputs(5, N=4, G=3)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key-value heads"):
        flash_attention(q, k, v)
    with pytest.raises(ValueError, match="tiles of 0 queries"):
        Tiles(queries=0)
