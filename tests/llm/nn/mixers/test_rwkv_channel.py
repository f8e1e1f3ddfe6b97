"""rwkv_channel: what it reads, and its first weights; equality with transformers is in test_rwkv4."""

import pytest
import torch

from llm import registry
from llm.params import ParamsError, from_dict
from tests.laws.mixer_laws import D, build, rows, run


def test_a_share_of_one_is_a_plain_squared_relu_layer():
    mixer, position = build("rwkv_channel", {"d_ff": 40})
    torch.nn.init.ones_(mixer.shares)
    x = rows(2)
    wanted = mixer.w_down(torch.relu(mixer.w_up(x)) ** 2)
    torch.testing.assert_close(run(mixer, position, x), wanted, atol=1e-12, rtol=0)


def test_it_reads_the_token_and_the_one_before_and_nothing_else():
    mixer, position = build("rwkv_channel", {})
    x = rows(1).requires_grad_()
    run(mixer, position, x)[0, 7].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == [6, 7]


@pytest.mark.parametrize("gate", [True, False])
def test_early_layers_take_more_of_the_token_before(gate):
    mixer, _ = build("rwkv_channel", {"gate": gate})  # layer 1 of 3
    power = 2 / 3 if gate else (2 / 3) ** 4
    wanted = (torch.arange(D, dtype=torch.float64) / D) ** power
    for share in mixer.shares:
        torch.testing.assert_close(share, wanted, atol=1e-6, rtol=0)
    assert len(mixer.shares) == 1 + gate


def test_wrong_configs_are_named():
    with pytest.raises(ParamsError, match=r"d_ff \(0\) must be positive"):
        from_dict(registry.module("llm.nn.mixers", "rwkv_channel").Config, {"d_ff": 0}, "p")
