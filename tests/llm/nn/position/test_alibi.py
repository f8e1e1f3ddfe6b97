"""ALiBi against Bloom and MPT in `transformers`, and inside attention."""

import pytest
import torch

from llm.nn.kernels.attention import attend_naive, full_mask
from llm.nn.mixers import gqa
from llm.nn.mixers.base import Context, Site, segment_mask
from llm.nn.norm import rmsnorm
from llm.nn.position import alibi
from llm.nn.position.base import Shape


def position(n_heads):
    return alibi.build(alibi.Config(), Shape(d_model=24, max_len=32, n_heads=n_heads))


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 6, 8, 12, 14, 16, 20])
def test_slopes_equal_bloom(n_heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    bloom = build_alibi_tensor(torch.ones(1, 9), n_heads, torch.float32)[:, 0]  # slope j
    torch.testing.assert_close(
        torch.tensor(alibi.slopes(n_heads)), bloom[:, 1], atol=1e-7, rtol=0
    )  # theirs in float32
    ours = position(n_heads).bias(torch.tensor([8]), torch.arange(9))[:, 0]
    torch.testing.assert_close(
        ours - ours[:, :1], bloom, atol=1e-6, rtol=0
    )  # equal up to a constant of the row


@pytest.mark.parametrize("n_heads", [4, 8, 16])
def test_bias_of_the_last_query_equals_mpt(n_heads):
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    mpt = build_mpt_alibi_tensor(n_heads, 12).reshape(n_heads, 12)
    ours = position(n_heads).bias(torch.tensor([11]), torch.arange(12))[:, 0]
    torch.testing.assert_close(ours, mpt, atol=1e-6, rtol=0)


def test_slopes_of_the_paper():
    assert alibi.slopes(8) == [2.0**-n for n in range(1, 9)]
    assert alibi.slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]


@pytest.mark.parametrize("packed", [False, True])
def test_attention_equals_the_equation_and_adds_after_scaling(packed):
    """Every token loop: softmax over its own document of q k / sqrt(H) - m (i - j)."""
    torch.manual_seed(0)
    N, H, T = 3, 8, 11
    site = Site(d_model=24, layer=0, n_layers=1, max_len=32, norm=rmsnorm.Config())
    mixer = gqa.build(gqa.Config(n_heads=N, n_kv_heads=N, rotate=False), site).double()
    x = torch.randn(1, T, 24, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([[1] * 4 + [2] * 7]) if packed else None
    here = position(N)
    context = Context(positions=torch.arange(T), dtype=x.dtype, segments_BT=segments)
    mine = mixer(x, here, context)
    q, k, v = mixer.project(x, here, None)
    rows = []
    for i in range(T):
        first = 4 if packed and i >= 4 else 0
        heads = []
        for n, slope in enumerate(alibi.slopes(N)):
            distance = i - torch.arange(first, i + 1)
            scores = k[0, n, first : i + 1] @ q[0, n, i] / H**0.5 - slope * distance
            heads.append(torch.softmax(scores, dim=0) @ v[0, n, first : i + 1])
        rows.append(torch.cat(heads))
    wanted = mixer.w_o(torch.stack(rows)[None])
    torch.testing.assert_close(mine, wanted, atol=1e-7, rtol=0)  # slopes are float32
    weights = torch.randn_like(mine)
    [d_mine], [d_wanted] = (
        torch.autograd.grad((y * weights).sum(), [x], retain_graph=True) for y in (mine, wanted)
    )
    torch.testing.assert_close(d_mine, d_wanted, atol=1e-7, rtol=0)


def test_bloom_attention_with_its_bias_gives_our_numbers():
    """slope j and -slope (i - j) are the same to a softmax."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 6, 9, 8)
    places = torch.arange(9)
    mine = attend_naive(q, k, v, full_mask(q, None, position(6).bias(places, places)))
    bloom = build_alibi_tensor(torch.ones(2, 9), 6, torch.float32).view(2, 6, 1, 9)
    wanted = attend_naive(q, k, v, full_mask(q, None, None) + bloom)
    torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=0)


def test_bf16_is_exact_where_it_matters():
    """Rounded to bf16 the bias errs by less than 1/256 of itself: nothing near the query, however far in the row."""
    n_heads, far = 8, torch.tensor([1999])
    bias = position(n_heads).bias(far, torch.arange(2000))[:, 0]
    near = bias[:, -100:]
    assert (near.bfloat16().float() - near).abs().max() < 0.25 * 0.5
    steep = torch.tensor(alibi.slopes(n_heads))[:, None] * torch.arange(2000)  # the release's form
    error = (steep.bfloat16().float() - steep)[:, -100:]
    assert error.abs().max() > 1  # scores off by more than 1 for the nearest keys


def test_segments_and_bias_add_up():
    mask = segment_mask(torch.tensor([[1, 1, 2]]), torch.float32)
    both = full_mask(torch.zeros(1, 2, 3, 4), mask, position(2).bias(torch.arange(3), torch.arange(3)))
    assert both.shape == (1, 2, 3, 3)
    finite = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert torch.equal(both.isfinite(), finite.expand(1, 2, 3, 3))
    assert both[0, 0, 1, 0] == -alibi.slopes(2)[0]


def test_a_mixer_that_takes_no_bias_is_refused():
    from llm.nn.model import Decoder, ModelConfig
    from llm.params import from_dict

    class Deaf(gqa.GroupedQueryAttention):
        takes_bias = False

    data = {
        "d_model": 24, "n_layers": 1, "max_len": 32, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 3, "n_kv_heads": 3}, "ffn": {"kind": "swiglu", "d_ff": 30},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "alibi"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    config = from_dict(ModelConfig, data, "test")
    model = Decoder(config, 10)
    model.layers[0].mixer.__class__ = Deaf
    with pytest.raises(
        ValueError, match="this kind is a bias on scores and Deaf takes none; choose rope or none"
    ):
        model._shape()
