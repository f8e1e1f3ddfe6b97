"""The laws of the family llm.nn.mixers, as functions of a tiny mixer; test_mixers.py applies each to every kind,
test_mutants.py to mixers with planted bugs. All in float64, at odd sizes."""

import torch

from llm import registry
from llm.nn.mixers.base import Context, Site, next_step
from llm.nn.position.base import Shape, segment_positions
from llm.params import from_dict
from tests.laws.mixer_cases import D

T, MAX_LEN, LAYER, N_LAYERS = 13, 32, 1, 3
CLOSE = {"atol": 1e-10, "rtol": 0}


def build(kind, values, *, position="rope", seed=0):
    """(mixer, position) of one kind in float64; weights are drawn so that no part of the mixer is silent."""
    torch.manual_seed(seed)
    norm = registry.module("llm.nn.norm", "rmsnorm").Config()
    config = from_dict(registry.module("llm.nn.mixers", kind).Config, values, "test")
    site = Site(d_model=D, layer=LAYER, n_layers=N_LAYERS, max_len=MAX_LEN, norm=norm)
    mixer = registry.build(config, site)
    for module in mixer.modules():
        if hasattr(module, "finish_init"):
            with torch.no_grad():
                module.finish_init()
    for parameter in mixer.parameters():
        if not parameter.any():  # a matrix that starts at zero would hide the part it belongs to
            torch.nn.init.normal_(parameter, std=0.3)
    module = registry.module("llm.nn.position", position)
    shape = Shape(d_model=D, max_len=MAX_LEN, widths=mixer.rotates, n_heads=mixer.n_heads)
    return mixer.double(), module.build(module.Config(), shape)


def run(mixer, position, x, segments=None):
    """The training form over whole rows."""
    positions = torch.arange(x.shape[1])
    if segments is not None and not position.relative:
        positions = segment_positions(segments)
    angles = position.angles(positions, x.dtype)
    return mixer(
        x, position, Context(positions=positions, dtype=x.dtype, angles=angles, segments_BT=segments)
    )


def read(mixer, position, state, x, lengths=None):
    """The next tokens of every row, as the decoder feeds them."""
    step = next_step(state, position, x.shape[1], x.dtype, lengths)
    return (mixer.decode if x.shape[1] == 1 and lengths is None else mixer.prefill)(x, position, state, step)


def new_state(mixer, batch, max_len=MAX_LEN, dtype=torch.float64):
    return mixer.init_state(batch, max_len, device=torch.device("cpu"), dtype=dtype)


def rows(batch, length=T, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D, dtype=torch.float64, generator=generator)


def future_has_no_influence(mixer, position):
    assert mixer.causal, "a mixer of the decoder must be causal"
    for t in (0, 5, T - 2):
        x = rows(2).requires_grad_()
        run(mixer, position, x)[:, t].sum().backward()
        assert torch.equal(x.grad[:, t + 1 :], torch.zeros_like(x.grad[:, t + 1 :]))
        influence = x.grad[:, : t + 1].abs().sum(-1)
        seen = influence if mixer.sees_all else influence[:, t:]
        assert seen.gt(0).all()  # and all of the past has some
    x = rows(1)
    later = x.clone()
    later[:, 6:] += 1  # a choice has no gradient, but it must not read the future either
    torch.testing.assert_close(run(mixer, position, x)[:, :6], run(mixer, position, later)[:, :6], **CLOSE)


def decode_equals_forward(mixer, position):
    x = rows(2)
    state = new_state(mixer, 2)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(T)], dim=1)
    torch.testing.assert_close(steps, run(mixer, position, x), **CLOSE)


def prefill_at_any_cut_then_decode_equals_forward(mixer, position):
    x = rows(2)
    whole = run(mixer, position, x)
    for cut in (1, 4, 7, T - 1):
        state = new_state(mixer, 2)
        first = read(mixer, position, state, x[:, :cut])
        half = cut + max(1, (T - cut) // 2)
        second = read(mixer, position, state, x[:, cut:half])
        rest = [read(mixer, position, state, x[:, t : t + 1]) for t in range(half, T)]
        torch.testing.assert_close(torch.cat([first, second, *rest], dim=1), whole, **CLOSE)


def ragged_prefill_equals_each_row_alone(mixer, position):
    x, following = rows(3), rows(3, 4, seed=2)
    lengths, more = torch.tensor([3, T, 6]), torch.tensor([2, 1, 2])
    state = new_state(mixer, 3)
    first = read(mixer, position, state, x, lengths)
    second = read(mixer, position, state, following[:, :2], more)  # rows that start at different places
    third = read(mixer, position, state, following[:, 2:3])
    for row, (n, m) in enumerate(zip(lengths.tolist(), more.tolist(), strict=True)):
        parts = [x[row : row + 1, :n], following[row : row + 1, :m], following[row : row + 1, 2:3]]
        alone = run(mixer, position, torch.cat(parts, dim=1))
        torch.testing.assert_close(first[row : row + 1, :n], alone[:, :n], **CLOSE)
        torch.testing.assert_close(second[row : row + 1, :m], alone[:, n : n + m], **CLOSE)
        torch.testing.assert_close(third[row : row + 1], alone[:, n + m :], **CLOSE)


def rows_do_not_mix(mixer, position):
    x = rows(3)
    torch.testing.assert_close(run(mixer, position, x)[1:2], run(mixer, position, x[1:2]), **CLOSE)


def length_does_not_matter(mixer, position):
    x = rows(1, MAX_LEN)
    whole = run(mixer, position, x)
    for n in (1, 2, 8, 16, 17, 31):
        torch.testing.assert_close(run(mixer, position, x[:, :n]), whole[:, :n], **CLOSE)


def packed_documents_do_not_leak(mixer, position):
    cuts = [(0, 4), (4, 10), (10, 11), (11, 24), (24, 29)]
    segments = torch.zeros(1, MAX_LEN, dtype=torch.long)  # the last three are padding
    for number, (begin, end) in enumerate(cuts):
        segments[:, begin:end] = number + 1
    x = rows(1, MAX_LEN).requires_grad_()
    packed = run(mixer, position, x, segments)
    assert torch.isfinite(packed).all()
    for begin, end in cuts:
        torch.testing.assert_close(packed[:, begin:end], run(mixer, position, x[:, begin:end]), **CLOSE)
    packed[:, 11:24].sum().backward()
    assert torch.isfinite(x.grad).all()
    outside = torch.cat([x.grad[:, :11], x.grad[:, 24:]], dim=1)
    assert outside.abs().max() < 1e-15  # sums of decays over the border cancel up to rounding


def rollback_forgets(mixer, position):
    x = rows(2)
    state = new_state(mixer, 2)
    read(mixer, position, state, x[:, :5])
    mark = state.checkpoint()
    wanted = read(mixer, position, state, x[:, 5:6])
    for t in range(6, T):  # long enough to leave a window or fill a block
        read(mixer, position, state, x[:, t : t + 1])
    state.rollback(mark)
    torch.testing.assert_close(read(mixer, position, state, x[:, 5:6]), wanted, atol=0, rtol=0)


def gradients_are_those_of_finite_differences(mixer, position):
    x = rows(1, 5).requires_grad_()
    segments = torch.tensor([[1, 1, 2, 2, 2]])
    assert torch.autograd.gradcheck(lambda x: run(mixer, position, x, segments), (x,))


LAWS = {
    law.__name__: law
    for law in (
        future_has_no_influence,
        decode_equals_forward,
        prefill_at_any_cut_then_decode_equals_forward,
        ragged_prefill_equals_each_row_alone,
        rows_do_not_mix,
        length_does_not_matter,
        packed_documents_do_not_leak,
        rollback_forgets,
        gradients_are_those_of_finite_differences,
    )
}
