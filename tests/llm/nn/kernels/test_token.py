"""token: products with a vector equal those with a matrix; sub-modules as attributes stay the registered ones."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm.nn.kernels import token
from llm.nn.kernels.token import Linear, Module, product


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 5), (256, 683), (1600, 256)])
def test_a_vector_gives_the_row_of_a_matrix(dtype, shape):
    torch.manual_seed(0)
    weight_OI, x_BI = torch.randn(shape).to(dtype), torch.randn(3, shape[1]).to(dtype)
    y_BO = product(x_BI, weight_OI)
    assert torch.equal(y_BO, F.linear(x_BI, weight_OI))
    for x, y in zip(x_BI, y_BO, strict=True):
        torch.testing.assert_close(product(x, weight_OI), y, rtol=1e-2, atol=torch.finfo(dtype).eps * 100)


def test_both_sides_of_the_limit_are_tested_and_onednn_stays_as_it_was(monkeypatch):
    assert 256 * 683 < token.OWN_KERNEL_BELOW < 1600 * 256
    seen = []
    monkeypatch.setattr(torch, "mv", lambda w, x: seen.append(torch._C._get_mkldnn_enabled()) or w @ x)
    before = torch._C._get_mkldnn_enabled()
    for rows in (683, 1600):
        product(torch.ones(256).bfloat16(), torch.ones(rows, 256).bfloat16())
    product(torch.ones(256), torch.ones(683, 256))
    assert seen == [False, before, before]

    def fails(w, x):
        raise RuntimeError("no memory")

    monkeypatch.setattr(torch, "mv", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        product(torch.ones(2).bfloat16(), torch.ones(3, 2).bfloat16())
    assert torch._C._get_mkldnn_enabled() == before


def test_gradients_pass_through_a_vector():
    layer = Linear(6, 4).double()
    torch.autograd.gradcheck(layer, torch.randn(6, dtype=torch.float64, requires_grad=True))


class Pair(Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.nothing = None


def test_sub_modules_are_attributes_and_registered():
    pair = Pair()
    assert pair.__dict__["first"] is pair.first is pair._modules["first"]
    assert list(dict(pair.named_children())) == ["first", "second"]
    assert set(pair.state_dict()) == {"first.weight", "first.bias", "second.weight", "second.bias"}


def test_replacing_and_deleting_reach_both_places():
    pair = Pair()
    other = nn.Identity()
    pair.first = other
    assert pair.first is other is pair._modules["first"]
    pair.first = None
    assert pair.first is None
    assert pair._modules["first"] is None
    del pair.second
    assert "second" not in pair._modules
    assert not hasattr(pair, "second")
    pair.add_module("second", other)  # the one way round `__setattr__`
    assert pair.second is other
    del pair.second
    assert not hasattr(pair, "second")


def test_a_copy_holds_its_own_sub_modules():
    pair = Pair()
    twin = copy.deepcopy(pair)
    assert twin.first is twin._modules["first"]
    assert twin.first is not pair.first


def test_hooks_are_called():
    pair, seen = Pair(), []
    pair.first.register_forward_hook(lambda *_: seen.append("first"))
    pair.first(torch.zeros(2))
    assert seen == ["first"]
