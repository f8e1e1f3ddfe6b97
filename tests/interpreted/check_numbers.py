"""The Triton kernels against the tiled form and the equation, on a GPU or in Triton's interpreter.

    TRITON_INTERPRET=1 python -m pytest tests/interpreted/check_numbers.py     without a GPU
    python -m pytest tests/interpreted/check_numbers.py                        with one

Run by `make test-triton` in an environment of its own: `transformers` takes other code where triton is
installed, and the suite beside it compares with the code without.
"""

import math
import os

import pytest
import torch

from llm.nn.kernels import flash_triton
from llm.nn.kernels.attention import attend, attend_naive, full_mask
from llm.nn.kernels.flash_attention import Tiles, first_visible, flash_attention
from llm.nn.kernels.flash_triton import flash_attention_triton, last_visible, tile_of
from llm.nn.mixers.base import segment_mask

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def test_something_can_run_the_kernels():
    assert DEVICE.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1"


def inputs(T, *, B=2, N=4, G=2, H=16, V=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(T)
    shapes = [(B, N, T, H), (B, G, T, H), (B, G, T, V)]
    made = [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]
    return [x.requires_grad_() for x in made]


def documents(T, B=2):
    numbers = torch.randint(0, 4, (B, T), generator=torch.Generator().manual_seed(T))
    return (torch.sort(torch.where(numbers == 0, 9, numbers), dim=1).values % 9).to(DEVICE)


def compare(ours, theirs, inputs, tolerance):
    """Outputs, log-sum-exps and gradients of both, relative to the largest number."""
    generator = torch.Generator().manual_seed(0)
    d_out = torch.randn(ours[0].shape, generator=generator).to(DEVICE)
    d_lse = torch.randn(ours[1].shape, generator=generator).to(DEVICE)
    found = [
        (*pair, *torch.autograd.grad((pair[0] * d_out).sum() + (pair[1] * d_lse).sum(), inputs))
        for pair in (ours, theirs)
    ]
    for name, mine, his in zip(("out", "lse", "dq", "dk", "dv"), *found, strict=True):
        error = (mine.double() - his.double()).abs().max() / his.double().abs().max().clamp_min(1)
        assert error < tolerance, f"{name}: {error}"


def exact(q, k, v, mask):
    """The equation in float64, for inputs of any dtype."""
    q, k, v, mask = (x.double() for x in (q, k, v, mask))
    k_all = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return attend_naive(q, k, v, mask), (q @ k_all.mT / math.sqrt(q.shape[-1]) + mask).logsumexp(-1)


@pytest.mark.parametrize("T", [1, 15, 64, 65, 100])
@pytest.mark.parametrize("case", ["causal", "documents", "window", "documents in a window"])
def test_equal_to_the_tiled_form(case, T):
    arguments = {}
    if "documents" in case:
        arguments["segments_BT"] = documents(T)
    if "window" in case:
        arguments["window"] = 20
    made = inputs(T)
    ours, theirs = flash_attention_triton(*made, **arguments), flash_attention(*made, **arguments)
    compare(ours, theirs, made, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equal_to_the_equation(dtype):
    made = inputs(70, dtype=dtype)
    mask = segment_mask(documents(70), torch.float64)
    ours = flash_attention_triton(*made, segments_BT=documents(70))
    compare(ours, exact(*made, mask), made, TOLERANCE[dtype])


@pytest.mark.parametrize(("N", "G"), [(1, 1), (6, 1), (6, 2), (3, 3)])
def test_groups_of_heads(N, G):
    made = inputs(40, N=N, G=G)
    compare(flash_attention_triton(*made), flash_attention(*made), made, TOLERANCE[torch.float32])


@pytest.mark.parametrize(("H", "V"), [(8, 8), (24, 40), (64, 16), (96, 128), (16, 160)])
def test_any_width_of_heads_and_values(H, V):
    made = inputs(37, H=H, V=V, B=1)
    compare(flash_attention_triton(*made), flash_attention(*made), made, TOLERANCE[torch.float32])


def test_rows_that_are_views_and_a_scale_of_ones_own():
    q, k, v = inputs(33)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    ours = flash_attention_triton(*turned, scale=0.1)
    compare(ours, flash_attention(q, k, v, scale=0.1), (q, k, v), TOLERANCE[torch.float32])


def test_a_gradient_that_is_expanded():
    made = inputs(20)
    ours, theirs = (
        torch.autograd.grad(f(*made)[0].sum(), made) for f in (flash_attention_triton, flash_attention)
    )
    for mine, his in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, his, atol=2e-5, rtol=0)


def test_a_trial_tells_a_right_kernel_from_a_wrong_one(monkeypatch):
    flash_triton.agrees.cache_clear()
    state = torch.get_rng_state()
    assert flash_triton.agrees(DEVICE, torch.float32, 16, 24)
    assert flash_triton.agrees(DEVICE, torch.bfloat16, 16, 16)
    assert torch.equal(torch.get_rng_state(), state)  # seeded results stay the same
    flash_triton.agrees.cache_clear()
    monkeypatch.setattr(flash_triton, "first_visible", lambda T, *_: first_visible(T, None, None, DEVICE))
    with pytest.warns(UserWarning, match="flash_triton: off by .* sdpa is used instead"):
        assert not flash_triton.agrees(DEVICE, torch.float32, 16, 16)
    monkeypatch.setattr(flash_triton, "last_visible", None)
    with pytest.warns(UserWarning, match="does not run here"):
        assert not flash_triton.agrees(DEVICE, torch.float32, 24, 16)
    flash_triton.agrees.cache_clear()


@pytest.mark.parametrize(
    "first",
    [
        first_visible(50, documents(50), None, DEVICE),
        first_visible(50, documents(50), 7, DEVICE),
        first_visible(50, None, 4, DEVICE),
        first_visible(50, None, None, DEVICE),
    ],
)
def test_last_query_that_sees_a_key(first):
    index = torch.arange(50, device=DEVICE)
    seen_BTS = (index <= index[:, None]) & (index >= first[:, :, None])
    wanted = torch.where(seen_BTS, index[:, None], -1).max(dim=1).values
    assert torch.equal(last_visible(first).long(), wanted)


def test_chosen_by_name(monkeypatch):
    monkeypatch.setenv("LLM_ATTENTION", "triton")
    q, k, v = inputs(30)
    segments = documents(30)
    ours = attend(q, k, v, mask=None, segments_BT=segments, bias_NTS=None)
    wanted = attend_naive(q, k, v, segment_mask(segments, q.dtype))
    torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="LLM_ATTENTION: 'triton' takes no bias"):
        attend(q, k, v, mask=None, bias_NTS=torch.zeros(4, 30, 30, device=DEVICE))


def test_what_it_cannot_take_is_refused():
    q, k, v = inputs(5)
    with pytest.raises(ValueError, match=r"torch.float64 heads of width 16; .* use LLM_ATTENTION=flash"):
        flash_attention_triton(q.double(), k.double(), v.double())
    q, k, v = inputs(5, H=300)
    with pytest.raises(ValueError, match="heads of width 300"):
        flash_attention_triton(q, k, v)


def test_tiles_are_powers_of_two_of_16_at_least():
    for width in (1, 16, 17, 64, 100, 256):
        for dtype in (torch.float32, torch.bfloat16):
            tile = tile_of(width, width, dtype)
            assert tile["P"] >= width
            assert all(size >= 16 and size & (size - 1) == 0 for size in tile.values())


def test_full_mask_is_what_no_segments_mean():
    made = inputs(18)
    compare(flash_attention_triton(*made), exact(*made, full_mask(made[0], None, None)), made, 2e-5)
    compare(flash_attention_triton(*made), flash_attention(*made, tiles=Tiles(queries=3, keys=5)), made, 2e-5)
