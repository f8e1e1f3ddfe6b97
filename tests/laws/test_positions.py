"""Laws of the family llm.nn.position: every kind must pass every law, alone and inside a tiny gqa model."""

import pytest
import torch

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.nn.position.base import Shape, segment_positions
from llm.params import from_dict

D, H, N, MAX_LEN, T, V = 24, 8, 3, 40, 17, 50
CPU = torch.device("cpu")

# Several Configs for each kind, so that every option is under the laws.
TINY = {
    "alibi": [{}],
    "learned": [{}, {"std": 0.3}],
    "llama3": [{"factor": 4.0, "original_len": 16}, {"base": 50.0, "low_turns": 0.5, "fraction": 0.5}],
    "none": [{}],
    "ntk": [{"factor": 4.0}, {"base": 50.0, "fraction": 0.5, "layout": "interleaved"}],
    "pi": [{"factor": 4.0}, {"base": 50.0, "fraction": 0.5, "layout": "interleaved"}],
    "rope": [{}, {"base": 50.0, "fraction": 0.5}, {"layout": "interleaved"}],
    "sinusoidal": [{}, {"layout": "concatenated", "scale": 1.0, "base": 50.0}],
    "yarn": [
        {"factor": 4.0, "original_len": 16, "base": 50.0, "beta_fast": 2.0},
        {"temperature": 1.3, "original_len": 16, "layout": "interleaved"},
    ],
}
CASES = [(kind, index) for kind in TINY for index in range(len(TINY[kind]))]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
ROTATIONS = [kind for kind in TINY if registry.module("llm.nn.position", kind).build.way == "rotate"]
STRETCHED = [kind for kind in ROTATIONS if kind != "rope"]
TURNING = pytest.mark.parametrize(
    "case", [c for c in CASES if c[0] in ROTATIONS], ids=lambda c: f"{c[0]}-{c[1]}"
)


def build(case, max_len=MAX_LEN, n_heads=N, width=H):
    kind, index = case if isinstance(case, tuple) else (case, None)
    module = registry.module("llm.nn.position", kind)
    config = from_dict(module.Config, {} if index is None else TINY[kind][index], "test")
    position = module.build(config, Shape(d_model=D, max_len=max_len, widths=[width], n_heads=n_heads))
    if hasattr(position, "finish_init"):
        torch.manual_seed(3)
        position.finish_init()
    return position


def model(case, max_len=MAX_LEN, seed=0):
    kind, index = case
    data = {
        "d_model": D, "n_layers": 2, "max_len": max_len, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": N, "n_kv_heads": 1, "d_head": H},
        "ffn": {"kind": "swiglu", "d_ff": 30}, "norm": {"kind": "rmsnorm"},
        "position": {"kind": kind, **TINY[kind][index]}, "init": {"kind": "gpt2", "std": 0.2},
    }  # fmt: skip
    torch.manual_seed(seed)
    return Decoder(from_dict(ModelConfig, data, "test"), V).double()


def tokens(batch, length, seed=1):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


def scores(position, q, k, places_T, places_S):
    """What attention adds up from rotation and bias: [1, N, T, S]."""
    q = position.rotate(q, position.angles(places_T, q.dtype))
    k = position.rotate(k, position.angles(places_S, k.dtype))
    bias = position.bias(places_T, places_S)
    return q @ k.mT if bias is None else q @ k.mT + bias


def test_every_kind_is_covered():
    assert sorted(TINY) == registry.kinds("llm.nn.position")


@EVERY_CASE
def test_it_tells_in_one_way_only(case):
    position, places = build(case), torch.arange(5)
    x = torch.randn(1, N, 5, H)
    turned = position.rotate(x, position.angles(places, x.dtype))
    ways = {
        "embed": position.embed(places) is not None,
        "rotate": not torch.equal(turned, x),
        "bias": position.bias(places, places) is not None,
    }
    assert [way for way, used in ways.items() if used] == [w for w in [position.way] if w != "none"]


@EVERY_CASE
def test_a_relative_kind_depends_on_the_distance_alone(case):
    position = build(case)
    torch.manual_seed(2)
    q, k = torch.randn(2, 1, N, 9, H, dtype=torch.float64)
    here = torch.arange(9)
    if position.relative:
        for shift in (1, 13, MAX_LEN - 9):
            torch.testing.assert_close(
                scores(position, q, k, here + shift, here + shift), scores(position, q, k, here, here)
            )
    else:
        assert not torch.allclose(position.embed(here + 1), position.embed(here))


@EVERY_CASE
def test_the_order_of_tokens_matters_unless_there_is_no_position(case):
    position = build(case)
    x = torch.ones(1, N, 2, H, dtype=torch.float64)
    first, second = torch.tensor([0, 1]), torch.tensor([0, 5])
    told = [scores(position, x, x, torch.tensor([6, 7]), places) for places in (first, second)]
    if position.way == "embed":
        told = [position.embed(places) for places in (first, second)]
    assert torch.equal(*told) == (position.way == "none")


@EVERY_CASE
def test_positions_of_rows_give_what_each_row_gives(case):
    """[B, T], the form of decoding, against [T]."""
    position = build(case)
    rows, keys = torch.tensor([[0, 1, 2], [11, 12, 13]]), torch.arange(14)
    x = torch.randn(2, N, 3, H, dtype=torch.float64)
    for row in range(2):
        embedded, bias = position.embed(rows), position.bias(rows, keys)
        if embedded is not None:
            assert torch.equal(embedded[row], position.embed(rows[row]))
        if bias is not None:
            assert bias.shape == (2, N, 3, 14)
            assert torch.equal(bias[row], position.bias(rows[row], keys))
        together = position.rotate(x, position.angles(rows, x.dtype))[row]
        alone = position.rotate(x[row : row + 1], position.angles(rows[row], x.dtype))[0]
        torch.testing.assert_close(together, alone, atol=0, rtol=0)


@TURNING
def test_rotation_keeps_lengths_up_to_the_gain_and_the_rest_as_it_is(case):
    position = build(case)
    x = torch.randn(1, N, MAX_LEN, H, dtype=torch.float64)
    y = position.rotate(x, position.angles(torch.arange(MAX_LEN), x.dtype))
    R = position.rotated(H)
    assert H * TINY[case[0]][case[1]].get("fraction", 1) == R
    torch.testing.assert_close(y[..., :R].norm(dim=-1), position.gain() * x[..., :R].norm(dim=-1))
    assert torch.equal(y[..., R:], x[..., R:])
    torch.testing.assert_close(
        y[:, :, 0], torch.cat([position.gain() * x[:, :, 0, :R], x[:, :, 0, R:]], dim=-1)
    )


@TURNING
def test_gradient_of_the_rotation_is_that_of_finite_differences(case):
    position = build(case)
    places = torch.tensor([[0, 3, 39], [1, 2, 17]])
    x = torch.randn(2, 1, 3, H, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: position.rotate(x, position.angles(places, x.dtype)), (x,))


@pytest.mark.parametrize("kind", STRETCHED)
def test_factor_one_is_rope(kind):
    module = registry.module("llm.nn.position", kind)
    shape = Shape(d_model=D, max_len=MAX_LEN, widths=[H])
    for base in (10000.0, 50.0):
        ours = module.build(module.Config(factor=1.0, base=base), shape)
        rope_module = registry.module("llm.nn.position", "rope")
        rope = rope_module.build(rope_module.Config(base=base), shape)
        for mine, wanted in zip(
            ours.tables(H, torch.float64, CPU), rope.tables(H, torch.float64, CPU), strict=True
        ):
            torch.testing.assert_close(mine, wanted, atol=1e-14, rtol=0)


@pytest.mark.parametrize("kind", STRETCHED)
@pytest.mark.parametrize("width", [16, 64, 128])
def test_stretching_slows_no_pair_by_more_than_the_factor_and_speeds_none_up(kind, width):
    module = registry.module("llm.nn.position", kind)
    shape = Shape(d_model=D, max_len=MAX_LEN, widths=[width])
    stretched = module.build(module.Config(factor=8.0), shape).frequencies(width)
    rope = registry.module("llm.nn.position", "rope")
    plain = rope.build(rope.Config(), shape).frequencies(width)
    slower = plain / stretched
    assert ((slower > 1 - 1e-12) & (slower < 8 + 1e-12)).all()
    assert (stretched.diff() < 0).all()
    assert slower[-1] == pytest.approx(8)  # the slowest pair: by the whole factor, whatever the rule
    assert slower[0] == pytest.approx(8 if kind == "pi" else 1)


@EVERY_CASE
def test_decode_equals_forward_in_a_model(case):
    decoder, x = model(case), tokens(2, T)
    states = decoder.init_state(2)
    steps = [decoder.prefill(x[:, :5], states)]
    steps += [decoder.decode(x[:, t : t + 1], states) for t in range(5, T)]
    torch.testing.assert_close(torch.cat(steps, dim=1), decoder(x), atol=1e-10, rtol=0)


@EVERY_CASE
def test_rows_of_different_lengths_decode_as_each_alone(case):
    decoder, x = model(case), tokens(2, T)
    lengths = torch.tensor([4, 11])
    states = decoder.init_state(2)
    decoder.prefill(x[:, :11], states, lengths)
    following = decoder.decode(x[:, 11:12], states)
    for row, length in enumerate(lengths.tolist()):
        alone = torch.cat([x[row : row + 1, :length], x[row : row + 1, 11:12]], dim=1)
        torch.testing.assert_close(following[row : row + 1], decoder(alone)[:, -1:], atol=1e-10, rtol=0)


@EVERY_CASE
def test_packed_documents_read_as_each_alone(case):
    decoder, x = model(case), tokens(1, T)
    segments = torch.tensor([[1] * 4 + [2] * 6 + [3] * 1 + [4] * 4 + [0] * 2])
    packed = decoder(x, segments)
    assert packed.isfinite().all()
    for begin, end in [(0, 4), (4, 10), (10, 11), (11, 15)]:
        torch.testing.assert_close(packed[:, begin:end], decoder(x[:, begin:end]), atol=1e-10, rtol=0)


@EVERY_CASE
def test_a_later_token_changes_nothing_before_it(case):
    """What a frequency that follows the length of the row would break."""
    decoder, x = model(case), tokens(1, MAX_LEN)
    whole = decoder(x)
    for length in (1, 2, 16, 17, 33):
        torch.testing.assert_close(decoder(x[:, :length]), whole[:, :length], atol=1e-10, rtol=0)


@pytest.mark.parametrize("case", [c for c in CASES if c[0] != "learned"], ids=lambda c: f"{c[0]}-{c[1]}")
def test_a_longer_table_changes_nothing(case):
    """max_len is room, not a setting of the mathematics (a longer learned table has more weights)."""
    x = tokens(1, T)
    torch.testing.assert_close(model(case, max_len=T)(x), model(case, max_len=400)(x), atol=1e-12, rtol=0)


@EVERY_CASE
def test_beyond_max_len_is_refused(case):
    decoder = model(case, max_len=T)
    states = decoder.init_state(1, T + 3)  # a state with more room than the model has places
    decoder.prefill(tokens(1, T), states)
    assert decoder.position.relative == (case[0] not in ("learned", "sinusoidal"))
    if decoder.position.way in ("embed", "rotate"):
        with pytest.raises(
            ValueError, match=rf"token at place {T}, places end at {T - 1}; raise model.max_len"
        ):
            decoder.decode(tokens(1, 1), states)
    else:
        assert decoder.decode(tokens(1, 1), states).isfinite().all()
    with pytest.raises(ValueError, match=rf"row of {T + 1} tokens, max_len is {T}; raise model.max_len"):
        decoder(tokens(1, T + 1))


@EVERY_CASE
def test_a_cast_to_bf16_leaves_angles_and_slopes_exact(case):
    places = torch.arange(600)
    exact, cast = build(case, max_len=600), build(case, max_len=600).to(torch.bfloat16)
    if exact.way == "rotate":
        for a, b in zip(exact.tables(H, torch.float32, CPU), cast.tables(H, torch.float32, CPU), strict=True):
            assert torch.equal(a, b)
        x = torch.randn(1, 1, 600, H)
        low = x.bfloat16()
        turned = cast.rotate(low, cast.angles(places, torch.bfloat16)).float()
        wanted = exact.rotate(low.float(), exact.angles(places, torch.float32))
        assert (turned - wanted).abs().max() < 2**-6 * exact.gain() * low.abs().max()
    if exact.way == "bias":
        assert torch.equal(exact.bias(places, places), cast.bias(places, places))
    if exact.way == "embed" and case[0] != "learned":  # a learned table is a weight like any other
        assert torch.equal(exact.embed(places), cast.embed(places))


@EVERY_CASE
def test_every_parameter_is_trained_and_nothing_else_is_stored(case):
    decoder, x = model(case), tokens(2, T)
    decoder(x).square().mean().backward()
    found = dict(decoder.position.named_parameters())
    assert list(found) == (["table_SD"] if case[0] == "learned" else [])
    assert list(decoder.position.state_dict()) == list(found)
    for parameter in found.values():
        assert parameter.grad[:T].abs().sum(1).gt(0).all()
        assert parameter.grad[T:].eq(0).all()


@EVERY_CASE
def test_segments_restart_only_absolute_kinds(case, monkeypatch):
    decoder = model(case)
    seen = []
    embed = decoder.position.embed
    monkeypatch.setattr(decoder.position, "embed", lambda places: seen.append(places) or embed(places))
    segments = torch.tensor([[1, 1, 1, 2, 2, 0]])
    decoder(tokens(1, 6), segments)
    wanted = torch.arange(6) if decoder.position.relative else segment_positions(segments)
    assert torch.equal(seen[0], wanted)
