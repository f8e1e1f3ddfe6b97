"""mamba: against the recurrence, against transformers with gradients (Mamba's layer and Jamba's)."""

import pytest
import torch
import torch.nn.functional as F

from llm import registry
from llm.nn.activation import silu
from llm.nn.kernels import scan
from llm.params import ParamsError, from_dict
from tests.laws.mixer_laws import D, build, rows, run


def textbook(mixer, x_BTD):
    """One token after the other, from the equations."""
    u, z = mixer.w_in(x_BTD).chunk(2, -1)
    W = mixer.conv.width
    padded = F.pad(u, (0, 0, W - 1, 0))
    u = silu(
        sum(padded[:, j : j + x_BTD.shape[1]] * mixer.conv.filter_WC[j] for j in range(W)) + mixer.conv.bias_C
    )
    dt, b, c = mixer.w_select(u).split([mixer.rank, mixer.d_state, mixer.d_state], -1)
    dt, b, c = (norm(y) for norm, y in zip(mixer.norms, (dt, b, c), strict=True))
    dt, rate = F.softplus(mixer.w_dt(dt)), -mixer.log_rate.exp()
    h, out = x_BTD.new_zeros(len(u), mixer.inner, mixer.d_state), []
    for t in range(x_BTD.shape[1]):
        h = torch.exp(dt[:, t, :, None] * rate) * h + (dt[:, t] * u[:, t])[..., None] * b[:, t, None]
        out.append((h * c[:, t, None]).sum(-1) + mixer.skip * u[:, t])
    return mixer.w_o(torch.stack(out, 1) * silu(z))


@pytest.mark.parametrize(
    "values", [{"d_state": 4}, {"expand": 1, "d_state": 3, "dt_rank": 5, "inner_norms": True}]
)
@pytest.mark.parametrize("chunk", [5, 64])
def test_equals_the_recurrence_with_gradients(values, chunk, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK", chunk)
    mixer, position = build("mamba", values)
    x = rows(2, 19).requires_grad_()
    found, wanted = run(mixer, position, x), textbook(mixer, x)
    torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
    weight = torch.randn_like(wanted)
    inputs = [x, *mixer.parameters()]
    ours = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_gradients_of_the_scan_are_those_of_finite_differences(chunk, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK", chunk)
    torch.manual_seed(0)
    B, T, E, N = 2, 5, 3, 2
    u, dt = torch.randn(B, T, E, dtype=torch.float64), torch.rand(B, T, E, dtype=torch.float64)
    rate, state = -torch.rand(E, N, dtype=torch.float64), torch.randn(B, E, N, dtype=torch.float64)
    b, c = (torch.randn(B, T, N, dtype=torch.float64) for _ in "bc")
    inputs = [x.requires_grad_() for x in (u, dt, rate, b, c, state)]
    keep = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *args: scan.selective_scan(*args, keep), inputs)


def test_memory_of_the_scan_does_not_hold_every_state():
    B, T, E, N = 1, 4 * scan.CHUNK, 8, 4
    args = [
        torch.randn(B, T, E),
        torch.rand(B, T, E),
        -torch.rand(E, N),
        torch.randn(B, T, N),
        torch.randn(B, T, N),
    ]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        scan.selective_scan(*(x.requires_grad_() for x in args), torch.zeros(B, E, N))
    assert sum(saved) < 2 * B * T * (2 * E + 2 * N)
    assert sum(saved) < B * T * E * N


def names(mixer, inner=""):
    filters = mixer.conv.filter_WC.T[:, None]
    found = {"in_proj.weight": mixer.w_in.weight, "conv1d.weight": filters, "conv1d.bias": mixer.conv.bias_C,
             "x_proj.weight": mixer.w_select.weight, "dt_proj.weight": mixer.w_dt.weight,
             "dt_proj.bias": mixer.w_dt.bias, "A_log": mixer.log_rate, "D": mixer.skip,
             "out_proj.weight": mixer.w_o.weight}  # fmt: skip
    return found | {f"{n}_layernorm.weight": norm.gain for n, norm in zip(inner, mixer.norms, strict=False)}


@pytest.mark.parametrize("name", ["mamba", "jamba"])
def test_equals_transformers_forward_and_gradients(name):
    import transformers

    sizes = {"hidden_size": D, "num_hidden_layers": 1}
    if name == "mamba":
        mixer, position = build("mamba", {"d_state": 4})
        config = transformers.MambaConfig(**sizes, state_size=4, conv_kernel=4, expand=2, use_bias=False)
        layer = transformers.models.mamba.modeling_mamba.MambaMixer(config, 0)
        layer.load_state_dict(names(mixer))
    else:
        mixer, position = build("mamba", {"d_state": 4, "inner_norms": True})
        for norm in mixer.norms:
            torch.nn.init.normal_(norm.gain, 1, 0.2)
        config = transformers.JambaConfig(
            **sizes, mamba_d_state=4, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=mixer.rank,
            use_mamba_kernels=False,
        )  # fmt: skip
        layer = transformers.models.jamba.modeling_jamba.JambaMambaMixer(config, 0)
        layer.load_state_dict(names(mixer, ["dt", "b", "c"]))
    layer = layer.double()
    x = rows(2, 19)
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = run(mixer, position, mine), layer(yours)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(mine.grad, yours.grad, atol=2e-5, rtol=1e-4)
    for ours, theirs in ((mixer.log_rate, layer.A_log), (mixer.w_dt.weight, layer.dt_proj.weight)):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


def test_first_weights_follow_the_rule():
    mixer, _ = build("mamba", {"d_state": 4, "expand": 20})
    steps = F.softplus(mixer.w_dt.bias)
    assert 1e-3 <= steps.min() < 3e-3
    assert 0.05 < steps.max() <= 0.1
    torch.testing.assert_close(mixer.log_rate.exp()[7], torch.tensor([1.0, 2, 3, 4], dtype=torch.float64))
    assert all(getattr(p, "elementwise", False) for p in (mixer.log_rate, mixer.skip, mixer.conv.filter_WC))


@pytest.mark.parametrize("values", [{"d_state": 0}, {"dt_rank": 0}, {"expand": -1}, {"conv": 0}])
def test_wrong_configs_are_named(values):
    [(name, value)] = values.items()
    with pytest.raises(ParamsError, match=rf"{name} \({value}\) must be positive"):
        from_dict(registry.module("llm.nn.mixers", "mamba").Config, values, "p")
