"""Packing, groups and scales of llm/compress/quant/base.py, and what a stored module keeps and drops."""

import copy

import pytest
import torch

from llm.compress.quant import base
from llm.compress.quant.base import QuantEmbedding, QuantLinear


def test_packing_puts_even_columns_in_the_low_nibble():
    # golden: -8 -> 0, -1 -> 7, 0 -> 8, 7 -> 15; bytes 0x70 = (low -8, high -1), 0xF8 = (low 0, high 7)
    codes = torch.tensor([[-8, -1, 0, 7]], dtype=torch.int8)
    assert base.pack_int4(codes).tolist() == [[0x70, 0xF8]]
    # an odd width is padded with code 0, that is nibble 8
    assert base.pack_int4(codes[:, :3]).tolist() == [[0x70, 0x88]]


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_packing_round_trip(width):
    codes = torch.randint(-8, 8, (5, width), dtype=torch.int8)
    packed = base.pack_int4(codes)
    assert packed.shape == (5, (width + 1) // 2)
    assert torch.equal(base.unpack_int4(packed, width), codes)


@pytest.mark.parametrize(
    ("in_features", "limit", "width"),
    [
        (256, 128, 128),
        (192, 128, 96),  # what divides
        (100, 128, 100),  # a short row is one group
        (320, 128, 80),
        (683, 128, 114),  # a prime: six groups, the last of 113
        (683, 0, 683),
        (254, 128, 127),
    ],
)
def test_group_width(in_features, limit, width):
    assert base.group_width(in_features, limit) == width


def test_scales_are_float16_values_of_the_largest_weight():
    weight = torch.tensor([[0.1, -0.7, 0.2, 0.3, 0.0, -0.05, 2.0]])
    scales = base.symmetric_scales(weight, bits=4, group=3)  # groups .1 -.7 .2 | .3 0 -.05 | 2.0
    assert scales.tolist() == torch.tensor([[0.1, 0.3 / 7, 2 / 7]]).half().float().tolist()
    assert base.expand(scales, 3, 7)[0, [2, 3, 6]].tolist() == scales[0].tolist()


def test_rounding_is_to_the_nearest_and_clamped():
    weight = torch.tensor([[0.24, 0.26, -0.26, 0.75, 9.0, -9.0]])
    codes = base.round_to_nearest(weight, torch.tensor([[0.5]]), bits=4, group=6)
    assert codes.tolist() == [[0, 1, -1, 2, 7, -7]]  # 0.75 / 0.5 = 1.5 goes to the even 2


def test_the_clipping_grid_lowers_its_own_error_and_never_raises_it():
    torch.manual_seed(0)
    weight = torch.randn(40, 64) ** 3
    errors = []
    for steps in (0, 40):
        scales = base.symmetric_scales(weight, bits=4, group=64, clip_steps=steps)
        codes = base.round_to_nearest(weight, scales, bits=4, group=64)
        errors.append((codes * scales - weight).abs().pow(2.4).sum(1))
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < 0.95 * errors[0].sum()


def filled(bits=4, group=8):
    torch.manual_seed(0)
    module = QuantLinear(6, 16, bits=bits, group=group)
    weight = torch.randn(6, 16)
    scales = base.symmetric_scales(weight, bits=bits, group=group)
    module.store(base.round_to_nearest(weight, scales, bits=bits, group=group), scales)
    return module


def test_only_packed_numbers_are_stored():
    module = filled()
    module(torch.randn(2, 16))  # makes the dequantised copy
    assert {name: (t.dtype, tuple(t.shape)) for name, t in module.state_dict().items()} == {
        "codes": (torch.uint8, (6, 8)),
        "scales": (torch.float16, (6, 2)),
    }
    assert module.stored_bytes == 6 * 8 + 2 * 6 * 2


def test_the_copy_is_made_once_and_dropped_when_the_state_changes():
    module, other = filled(), filled()
    other.codes = other.codes.flip(0)
    first = module.weight
    assert module.weight is first
    module.load_state_dict(other.state_dict())
    assert torch.equal(module.weight, other.weight)
    assert not torch.equal(module.weight, first)
    assert module.to("cpu").weight is not first


def test_the_copy_may_be_used_for_training_after_inference():
    module = filled()
    with torch.inference_mode():
        module(torch.randn(2, 16))
    x = torch.randn(2, 16, requires_grad=True)
    module(x).sum().backward()
    assert torch.allclose(x.grad, module.weight.sum(0).expand(2, 16))


def test_input_type_is_kept():
    module = filled()
    x = torch.randn(2, 16, dtype=torch.float64)
    assert module(x).dtype == torch.float64
    assert torch.allclose(module(x), x @ module.dequantize().double().T)


def test_embedding_rows_are_those_of_the_table():
    torch.manual_seed(0)
    table = QuantEmbedding(9, 6, bits=8, group=6)
    weight = torch.randn(9, 6) * torch.logspace(-3, 0, 9)[:, None]  # every row has its own size
    scales = base.symmetric_scales(weight, bits=8, group=6)
    table.store(base.round_to_nearest(weight, scales, bits=8, group=6), scales)
    tokens = torch.tensor([[0, 8], [3, 0]])
    assert torch.equal(table(tokens), table.weight[tokens])
    assert ((table.weight - weight).norm(dim=1) / weight.norm(dim=1)).max() < 0.01


def test_a_copy_of_a_tied_model_shares_its_own_table():
    table = QuantEmbedding(9, 6, bits=8, group=6)
    pair = torch.nn.ModuleDict({"embedding": table, "head": base.TiedHead(table)})
    twin = copy.deepcopy(pair)
    twin["embedding"].store(torch.ones(9, 6, dtype=torch.int8), torch.ones(9, 1))
    assert twin["head"].weight.eq(1).all()
    assert pair["head"].weight.eq(0).all()
    assert list(twin.state_dict()) == ["embedding.codes", "embedding.scales"]
