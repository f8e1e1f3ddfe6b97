"""mamba2: against the recurrence, against transformers with gradients, and its dual form."""

import pytest
import torch
import torch.nn.functional as F

from llm import registry
from llm.nn.activation import silu
from llm.nn.mixers.base import Site
from llm.params import ParamsError, from_dict
from tests.laws.mixer_laws import D, build, rows, run

CASES = [
    {"expand": 2, "d_head": 8, "d_state": 5, "n_groups": 2, "chunk": 4},
    {"expand": 1, "d_head": 6, "d_state": 3, "n_groups": 1, "chunk": 64},
]


def textbook(mixer, x_BTD):
    """One token after the other, from the equations."""
    config, H = mixer.config, mixer.heads
    G, N, P, W = config.n_groups, config.d_state, config.d_head, config.conv
    z, xbc, dt = mixer.w_in(x_BTD).split(mixer.parts, dim=-1)
    padded = F.pad(xbc, (0, 0, W - 1, 0))
    taps = (
        sum(padded[:, j : j + x_BTD.shape[1]] * mixer.conv.filter_WC[j] for j in range(W)) + mixer.conv.bias_C
    )
    x, b, c = silu(taps).split([H * P, G * N, G * N], dim=-1)
    dt = F.softplus(dt + mixer.dt_bias)
    state, out = x_BTD.new_zeros(len(x), H, P, N), []
    for t in range(x.shape[1]):
        heads = x[:, t].view(-1, H, P)
        bs, cs = (y[:, t].view(-1, G, N).repeat_interleave(H // G, 1) for y in (b, c))
        decay = torch.exp(-dt[:, t] * mixer.log_rate.exp())
        state = decay[..., None, None] * state + (dt[:, t, :, None] * heads)[..., None] * bs[:, :, None]
        out.append(((state * cs[:, :, None]).sum(-1) + mixer.skip[:, None] * heads).flatten(1))
    y = (torch.stack(out, 1) * silu(z)).unflatten(-1, (G, -1))
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + config.norm_eps)
    return mixer.w_o(y.flatten(-2) * mixer.gain)


@pytest.mark.parametrize("values", CASES)
def test_equals_the_recurrence_with_gradients(values):
    mixer, position = build("mamba2", values)
    torch.nn.init.normal_(mixer.gain, 1, 0.2)
    x = rows(2, 19).requires_grad_()
    found, wanted = run(mixer, position, x), textbook(mixer, x)
    torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
    weight = torch.randn_like(wanted)
    inputs = [x, *mixer.parameters()]
    ours = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("values", CASES)
def test_equals_transformers_forward_and_gradients(values):
    import transformers
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    mixer, position = build("mamba2", values)
    E = values["expand"] * D
    config = transformers.Mamba2Config(
        hidden_size=D, expand=values["expand"], num_heads=E // values["d_head"], head_dim=values["d_head"],
        state_size=values["d_state"], n_groups=values["n_groups"], conv_kernel=4, chunk_size=4, use_conv_bias=True,
        use_bias=False, rms_norm=True, layer_norm_epsilon=1e-5, num_hidden_layers=1,
    )  # fmt: skip
    layer = Mamba2Mixer(config, 0).double()
    layer.load_state_dict({
        "in_proj.weight": mixer.w_in.weight, "conv1d.weight": mixer.conv.filter_WC.T[:, None],
        "conv1d.bias": mixer.conv.bias_C, "dt_bias": mixer.dt_bias, "A_log": mixer.log_rate, "D": mixer.skip,
        "norm.weight": mixer.gain, "out_proj.weight": mixer.w_o.weight,
    })  # fmt: skip
    if values["n_groups"] > 1:  # the library normalises the whole width, the paper each group
        layer.norm = GroupNorm(mixer)
    x = rows(2, 19)
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = run(mixer, position, mine), layer(yours)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(mine.grad, yours.grad, atol=2e-5, rtol=1e-4)
    pairs = [
        (mixer.log_rate, layer.A_log),
        (mixer.dt_bias, layer.dt_bias),
        (mixer.w_in.weight, layer.in_proj.weight),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


class GroupNorm(torch.nn.Module):
    """Gate, then root mean square over each group."""

    def __init__(self, mixer):
        super().__init__()
        self.groups, self.weight, self.eps = mixer.config.n_groups, mixer.gain, mixer.config.norm_eps
        self.variance_epsilon = self.eps

    def forward(self, y, gate):
        wide = (y * F.silu(gate)).unflatten(-1, (self.groups, -1))
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).flatten(-2) * self.weight


def test_chunks_do_not_change_the_result():
    outputs = []
    for chunk in (1, 3, 8, 64):
        mixer, position = build("mamba2", CASES[0] | {"chunk": chunk})
        outputs.append(run(mixer, position, rows(2, 21)))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], atol=1e-11, rtol=0)


def test_first_weights_follow_the_rule():
    mixer, _ = build("mamba2", {"d_head": 1, "expand": 40})
    steps, rates = F.softplus(mixer.dt_bias), mixer.log_rate.exp()
    assert 1e-3 <= steps.min() < 5e-3
    assert 0.05 < steps.max() <= 0.1
    assert 1 <= rates.min() < 2
    assert 15 < rates.max() <= 16
    assert all(
        getattr(p, "elementwise", False) for p in (mixer.dt_bias, mixer.log_rate, mixer.skip, mixer.gain)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [({"d_state": 0}, r"d_state \(0\) must be positive"), ({"chunk": -1}, r"chunk \(-1\)")],
)
def test_wrong_configs_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(registry.module("llm.nn.mixers", "mamba2").Config, values, "p")


def test_widths_that_do_not_divide():
    module = registry.module("llm.nn.mixers", "mamba2")
    site = Site(d_model=24, layer=0, n_layers=1, max_len=8, norm=None)
    with pytest.raises(ValueError, match=r"expand \* d_model \(48\) must be a multiple of d_head \(64\)"):
        module.build(module.Config(), site)
    with pytest.raises(ValueError, match=r"6 heads must be a multiple of n_groups \(4\)"):
        module.build(module.Config(d_head=8, n_groups=4), site)


def test_muon_takes_what_the_projection_makes_apart():
    """z, X, B, C and the step of each head: one orthogonal update for all would leave B and C a small share of it."""
    mixer, _ = build("mamba2", CASES[0])
    assert mixer.w_in.weight.parts == (2 * D, 2 * D, 10, 10, mixer.heads)
