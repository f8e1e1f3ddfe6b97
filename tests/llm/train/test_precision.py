"""Master weights: what is low, what is high, and that small steps are not lost."""

import pytest
import torch
from torch import nn

from llm.train.precision import MasterWeights


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight  # tied
        self.frozen = nn.Parameter(torch.full((4,), 1.003), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.full((3,), 1.003))

    def forward(self, x):
        return self.b(self.a(x)) * self.frozen


def data(low):
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    return x.bfloat16() if low else x


def test_bf16_lowers_every_parameter_and_no_buffer_and_gives_all_back():
    model = Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with MasterWeights(model, "bf16") as weights:
        assert {param.dtype for param in model.parameters()} == {torch.bfloat16}
        assert model.table.dtype == torch.float32
        assert model.a.weight is model.b.weight
        assert sorted(weights.masters) == ["a.weight", "unused"]
        assert all(master.dtype == torch.float32 for master in weights.masters.values())
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name]), name


def test_weights_come_back_after_an_error_too():
    model = Toy()
    with pytest.raises(KeyError), MasterWeights(model, "bf16"):
        raise KeyError("x")
    assert {param.dtype for param in model.parameters()} == {torch.float32}
    assert float(model.frozen.data[0]) == pytest.approx(1.003, abs=1e-6)


def test_fp32_has_no_copies():
    model = Toy()
    with MasterWeights(model, "fp32") as weights:
        assert weights.masters["a.weight"] is model.a.weight
        model(data(False)).sum().backward()
        weights.collect()
        assert weights.masters["a.weight"].grad is model.a.weight.grad
    assert model.a.weight.grad is not None


def test_gradients_of_micro_batches_add_up_in_float32():
    model = Toy()
    with MasterWeights(model, "bf16") as weights:
        singles = []
        for row in data(True).split(1):
            model(row).float().sum().backward()
            singles.append(model.a.weight.grad.float().clone())
            weights.collect()
            assert model.a.weight.grad is None
        total = weights.masters["a.weight"].grad
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, torch.stack(singles).sum(0), rtol=1e-6, atol=1e-6)
        assert weights.masters["unused"].grad is None
        weights.publish()
        assert weights.masters["a.weight"].grad is None


def test_a_gradient_that_first_appears_in_a_later_micro_batch_counts():
    model = Toy()
    with MasterWeights(model, "bf16") as weights:
        model(data(True)).float().sum().backward()
        weights.collect()
        (model.unused.float() * 3).sum().backward()
        weights.collect()
        assert weights.masters["unused"].grad.tolist() == [3.0, 3.0]
        assert weights.masters["a.weight"].grad is not None


def test_steps_too_small_for_bf16_add_up_in_the_masters():
    model = Toy()
    with torch.no_grad():
        model.a.weight.fill_(1.0)
    with MasterWeights(model, "bf16") as weights:
        for _ in range(100):
            weights.masters["a.weight"].data += 1e-4  # bf16 alone would stay at 1.0 for ever
            weights.publish()
        assert model.a.weight[0, 0].item() == 1.0078125  # 1.01 rounded to bf16
    assert model.a.weight[0, 0].item() == pytest.approx(1.01, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1e6])
def test_clip_equals_torch(precision, max_norm):
    model = Toy()
    with MasterWeights(model, precision) as weights:
        model(data(precision == "bf16")).float().square().sum().backward()
        weights.collect()
        copies = [nn.Parameter(torch.zeros_like(grad)) for grad in weights.grads()]
        for copy, grad in zip(copies, weights.grads(), strict=True):
            copy.grad = grad.float().clone()
        norm = weights.clip(max_norm)
        expected = torch.nn.utils.clip_grad_norm_(copies, max_norm or float("inf"))
        assert norm == pytest.approx(float(expected), rel=1e-6)
        for copy, grad in zip(copies, weights.grads(), strict=True):
            torch.testing.assert_close(grad, copy.grad, rtol=1e-5, atol=0)


def test_declared_parts_reach_the_masters():
    model = Toy()
    model.a.weight.parts = (2, 2)
    with MasterWeights(model, "bf16") as weights:
        assert weights.masters["a.weight"].parts == (2, 2)


def test_no_gradient_at_all_is_an_error():
    with (
        MasterWeights(Toy(), "fp32") as weights,
        pytest.raises(ValueError, match="no parameter has a gradient"),
    ):
        weights.clip(1.0)
