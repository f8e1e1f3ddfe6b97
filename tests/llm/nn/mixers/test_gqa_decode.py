"""GQA: the short form of decoding one token against the general one."""

import dataclasses

import pytest
import torch

from llm.nn.mixers import gqa
from llm.nn.mixers.base import Site, next_step, rows_of
from llm.nn.norm import rmsnorm
from llm.nn.position import alibi, none, rope
from llm.nn.position.base import Shape

D, N, G = 24, 4, 2
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-6}  # other sums of the same numbers
POSITIONS = {"rope": rope, "none": none, "alibi": alibi}


def made(kind, **options):
    torch.manual_seed(0)
    site = Site(d_model=D, layer=0, n_layers=1, max_len=16, norm=rmsnorm.Config())
    mixer = gqa.build(gqa.Config(n_heads=N, n_kv_heads=G, **options), site)
    module = POSITIONS[kind]
    shape = Shape(d_model=D, max_len=16, widths=mixer.rotates, n_heads=N)
    return mixer, module.build(module.Config(), shape)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rope", {}),
        ("rope", {"qk_norm": True}),
        ("none", {"rotate": False}),
        ("alibi", {}),
        ("rope", {"gate": True}),
    ],
)
def test_decode_is_a_prefill_of_one_token(kind, options, rows, dtype):
    """Rows at one place, where decode takes the short way; and after a ragged prompt, where it may not."""
    mixer, position = made(kind, **options)
    mixer = mixer.to(dtype)
    x = torch.randn(rows, 9, D).to(dtype)
    for lengths in (None, torch.tensor([4, 2, 3])[:rows]):
        short, general = (mixer.init_state(rows, 16, device=x.device, dtype=dtype) for _ in range(2))
        for state in (short, general):
            mixer.prefill(x[:, :4], position, state, next_step(state, position, 4, dtype, lengths))
        for t in range(4, 9):
            step = next_step(short, position, 1, dtype)
            assert (step.place is None) == (lengths is not None)
            a = mixer.decode(x[:, t : t + 1], position, short, step)
            step = dataclasses.replace(next_step(general, position, 1, dtype), place=None)
            b = mixer.prefill(x[:, t : t + 1], position, general, step)
            assert torch.allclose(a, b, rtol=0, atol=ROUNDING[dtype])
        assert torch.allclose(short.k_BGSH, general.k_BGSH, rtol=0, atol=ROUNDING[dtype])
        assert torch.allclose(short.v_BGSH, general.v_BGSH, rtol=0, atol=ROUNDING[dtype])


def test_rows_are_even_until_one_is_shorter():
    mixer, position = made("rope")
    state = mixer.init_state(2, 16, device=torch.device("cpu"), dtype=torch.float32)
    x = torch.randn(2, 3, D)
    mark = state.checkpoint()
    mixer.prefill(x, position, state, next_step(state, position, 3, x.dtype))
    assert state.even
    assert next_step(state, position, 1, x.dtype).place == 3
    assert next_step(state, position, 2, x.dtype).place is None
    mixer.prefill(x, position, state, next_step(state, position, 3, x.dtype, torch.tensor([1, 3])))
    assert not state.even
    assert next_step(state, position, 1, x.dtype).place is None
    state.rollback(mark)
    # not known to be even: the general way is right for even rows as well
    assert next_step(state, position, 1, x.dtype).place is None


def test_one_row_is_a_vector_and_several_are_a_matrix():
    assert rows_of(torch.zeros(1, 1, D)).shape == (D,)
    assert rows_of(torch.zeros(3, 1, D)).shape == (3, D)
