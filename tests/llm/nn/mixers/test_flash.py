"""The gated attention unit against its equations and against FLASH-pytorch."""

import pytest
import torch
import torch.nn.functional as F
from flash_pytorch import FLASH, GAU
from rotary_embedding_torch import RotaryEmbedding
from torch import nn
from torch.func import functional_call

from llm.nn.mixers.flash import LINEAR_K, LINEAR_Q, QUAD_K, QUAD_Q, Config
from tests.laws.mixer_laws import D, T, build, rows, run
from tests.oracles import Largest, assert_same


def textbook(mixer, position, x):
    """Every pair of tokens by itself."""
    C, E = mixer.chunk, mixer.d_value
    u, v, z = F.silu(mixer.w_in(x)).split([E, E, mixer.d_key], dim=-1)
    heads = torch.stack(
        [z * g + b for g, b in zip(mixer.affine.gain, mixer.affine.offset, strict=True)], dim=1
    )
    if mixer.rotates:
        heads = position.rotate(heads, position.angles(torch.arange(x.shape[1]), x.dtype))
    out = []
    for t in range(x.shape[1]):
        o = torch.zeros_like(v[:, 0])
        for s in range(t + 1):
            if t // C == s // C:
                score = (heads[:, QUAD_Q, t] * heads[:, QUAD_K, s]).sum(-1, keepdim=True) / C
                weight = torch.relu(score + mixer.bias.by_distance[t - s]) ** 2
            else:
                weight = (heads[:, LINEAR_Q, t] * heads[:, LINEAR_K, s]).sum(-1, keepdim=True) / C
            o = o + weight * v[:, s]
        out.append(mixer.w_o(u[:, t] * o))
    return torch.stack(out, dim=1)


def lively(values):
    """Gains far from their small first values, so that every term counts."""
    mixer, position = build("flash", values)
    with torch.no_grad():
        for parameter in (mixer.affine.gain, mixer.affine.offset, mixer.bias.by_distance):
            parameter.normal_()
    return mixer, position


@pytest.mark.parametrize("values", [{"chunk": 4}, {"chunk": 5, "rotate": False}, {"chunk": 16}, {"chunk": 1}])
def test_equals_the_textbook_with_gradients(values):
    mixer, position = lively({"d_key": 6, **values})
    x = rows(2).requires_grad_()
    assert_same(run(mixer, position, x), textbook(mixer, position, x), [x, *mixer.parameters()], atol=1e-10)


def oracle_weights(mixer, order, heads, scale):
    """Our weights under the names of FLASH-pytorch: values before the gate, channels in its order."""
    E, S = mixer.d_value, mixer.d_key
    u, v, z = mixer.w_in.weight.split([E, E, S])
    table = F.pad(mixer.bias.by_distance, (0, 32 - mixer.chunk))[
        :, None
    ]  # distances below 16 have own buckets
    name = "qk_offset_scale" if len(heads) == 4 else "offsetscale"
    out = "to_out" if len(heads) == 4 else "to_out.0"
    return {
        "to_hidden.0.weight": torch.cat([v, u]),
        "to_qk.0.weight": z[order],
        f"{name}.gamma": mixer.affine.gain[heads][:, order],
        f"{name}.beta": mixer.affine.offset[heads][:, order],
        "rel_pos_bias.relative_attention_bias.weight": table / scale,
        f"{out}.weight": mixer.w_o.weight,
    }


def without_biases(module):
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.bias = None
    return module.double()


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("chunk", [4, 5, 13])
def test_equals_flash_pytorch_with_gradients(chunk, rotate):
    mixer, position = lively({"d_key": 6, "chunk": chunk, "rotate": rotate})
    rotary = RotaryEmbedding(6, cache_if_possible=False).double() if rotate else None
    module = FLASH(
        dim=D, group_size=chunk, query_key_dim=6, causal=True, rotary_pos_emb=rotary,
        norm_klass=lambda _: nn.Identity(),
    )  # fmt: skip
    order = torch.arange(6).view(2, 3).T.flatten()  # it turns neighbours, we turn channels half a width apart
    weights = oracle_weights(mixer, order, [QUAD_Q, LINEAR_Q, QUAD_K, LINEAR_K], 6**0.5)
    x = rows(2).requires_grad_()
    theirs = functional_call(without_biases(module), weights, (x,)) - x  # the residual is the block's
    assert_same(run(mixer, position, x), theirs, [x, *mixer.parameters()], atol=1e-6)


def test_one_chunk_is_the_gated_attention_unit():
    mixer, position = lively({"d_key": 6, "chunk": T, "rotate": False})
    module = GAU(dim=D, query_key_dim=6, causal=True, add_residual=False, norm_klass=lambda _: nn.Identity())
    # it divides scores and bias by the length, here the bias comes after the division
    weights = oracle_weights(mixer, torch.arange(6), [QUAD_Q, QUAD_K], D**0.5 / T)
    x = rows(2).requires_grad_()
    theirs = functional_call(without_biases(module), weights, (x,))
    mine = run(mixer, position, x)
    assert_same(mine, theirs, [x, mixer.w_in.weight, mixer.w_o.weight, mixer.affine.gain], atol=1e-10)


def test_the_linear_part_reads_finished_chunks_only():
    mixer, position = lively({"d_key": 6, "chunk": 4, "rotate": False})
    with torch.no_grad():
        mixer.bias.by_distance.zero_()
        mixer.affine.gain[QUAD_Q].zero_()
        mixer.affine.offset[QUAD_Q].zero_()
    y = run(mixer, position, rows(1))
    assert torch.equal(y[:, :4], torch.zeros_like(y[:, :4]))
    assert y[:, 4:].abs().sum(-1).gt(0).all()


def test_it_starts_as_a_mean_over_the_chunk():
    mixer, position = build("flash", {"d_key": 64, "chunk": T})
    assert 0.01 < mixer.affine.gain.std() < 0.03
    with torch.no_grad():  # the laws fill what starts at zero
        mixer.affine.offset.zero_()
    x = rows(1)
    u, v, _ = F.silu(mixer.w_in(x)).split([48, 48, 64], dim=-1)
    wanted = mixer.w_o(u[:, -1] * v.mean(1))
    torch.testing.assert_close(
        run(mixer, position, x)[:, -1], wanted, atol=1e-2 * float(wanted.abs().max()), rtol=0
    )


def test_memory_grows_with_the_length_not_with_its_square():
    mixer, position = build("flash", {"d_key": 4, "chunk": 16, "expansion": 1.0}, position="none")
    sizes = []
    for length in (256, 512):
        with Largest() as largest:
            run(mixer, position, torch.randn(1, length, D, dtype=torch.float64)).sum().backward()
        sizes.append(largest.numbers)
    assert sizes[1] == 2 * sizes[0] < 512 * 512 / 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_key": 0}, r"d_key \(0\) must be positive"),
        ({"chunk": 0}, r"chunk \(0\) must be positive"),
        ({"expansion": -1.0}, r"expansion \(-1.0\) must be positive"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_an_expansion_that_leaves_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"expansion \(0.01\) leaves no value"):
        build("flash", {"expansion": 0.01})
