"""Laws of the family llm.nn.mixers: every kind must pass every law, in float64, at odd sizes."""

import pytest
import torch

from llm import registry
from llm.nn.mixers.base import Context, next_step, segment_mask
from llm.nn.model import Decoder, ModelConfig
from llm.nn.position.base import segment_positions
from llm.params import from_dict

D, T, MAX_LEN = 24, 13, 32

# A tiny Config for each kind: the one thing a new mixer adds to this file.
TINY = {
    "gqa": [
        {"n_heads": 4, "n_kv_heads": 2},
        {"n_heads": 3, "n_kv_heads": 3, "qk_norm": True},
        {"n_heads": 4, "n_kv_heads": 1, "d_head": 8},
    ],
}
STATE_NUMBERS_PER_TOKEN = {"gqa": lambda mixer: 2 * mixer.n_kv_heads * mixer.d_head}
CASES = [(kind, index) for kind in TINY for index in range(len(TINY[kind]))]


def test_every_kind_is_covered():
    assert sorted(TINY) == registry.kinds("llm.nn.mixers")


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def parts(request):
    kind, index = request.param
    torch.manual_seed(0)
    norm = registry.module("llm.nn.norm", "rmsnorm").Config()
    config = from_dict(registry.module("llm.nn.mixers", kind).Config, TINY[kind][index], "test")
    mixer = registry.build(config, d_model=D, norm=norm).double()
    rope = registry.module("llm.nn.position", "rope")
    position = rope.build(rope.Config(), d_model=D, d_head=mixer.d_head, max_len=MAX_LEN)
    return kind, mixer, position


def run(mixer, position, x, segments=None):
    mask = None if segments is None else segment_mask(segments, x.dtype)
    positions = torch.arange(x.shape[1])
    if segments is not None and not position.relative:
        positions = segment_positions(segments)
    angles = position.angles(positions, x.dtype)
    context = Context(positions=positions, angles=angles, segments_BT=segments, mask_BTS=mask)
    return mixer(x, position, context)


def read(mixer, position, state, x, lengths=None):
    """The next tokens of every row, as the decoder feeds them."""
    step = next_step(state, position, x.shape[1], x.dtype, lengths)
    return (mixer.decode if x.shape[1] == 1 else mixer.prefill)(x, position, state, step)


def new_state(mixer, batch):
    return mixer.init_state(batch, MAX_LEN, device=torch.device("cpu"), dtype=torch.float64)


def test_future_has_no_influence(parts):
    _, mixer, position = parts
    if not mixer.causal:
        pytest.fail("a mixer of the decoder must be causal")
    for t in (0, 5, T - 2):
        x = torch.randn(2, T, D, dtype=torch.float64, requires_grad=True)
        run(mixer, position, x)[:, t].sum().backward()
        assert torch.equal(x.grad[:, t + 1 :], torch.zeros_like(x.grad[:, t + 1 :]))
        assert x.grad[:, : t + 1].abs().sum(-1).gt(0).all()  # and all of the past has some


def test_decode_equals_forward(parts):
    _, mixer, position = parts
    x = torch.randn(2, T, D, dtype=torch.float64)
    state = new_state(mixer, 2)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(T)], dim=1)
    torch.testing.assert_close(steps, run(mixer, position, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("cut", [1, 4, 7, T - 1])
def test_prefill_at_any_cut_then_decode_equals_forward(parts, cut):
    _, mixer, position = parts
    x = torch.randn(2, T, D, dtype=torch.float64)
    state = new_state(mixer, 2)
    full = torch.full((2,), cut)
    first = read(mixer, position, state, x[:, :cut], full)
    half = cut + max(1, (T - cut) // 2)
    second = read(mixer, position, state, x[:, cut:half], torch.full((2,), half - cut))
    rest = [read(mixer, position, state, x[:, t : t + 1]) for t in range(half, T)]
    torch.testing.assert_close(
        torch.cat([first, second, *rest], dim=1), run(mixer, position, x), atol=1e-12, rtol=0
    )


def test_ragged_prefill_equals_each_row_alone(parts):
    _, mixer, position = parts
    x, nxt = torch.randn(3, T, D, dtype=torch.float64), torch.randn(3, 1, D, dtype=torch.float64)
    lengths = torch.tensor([3, T, 6])
    state = new_state(mixer, 3)
    first = read(mixer, position, state, x, lengths)
    second = read(mixer, position, state, nxt)
    for row, n in enumerate(lengths.tolist()):
        alone = run(mixer, position, torch.cat([x[row : row + 1, :n], nxt[row : row + 1]], dim=1))
        torch.testing.assert_close(first[row : row + 1, :n], alone[:, :n], atol=1e-12, rtol=0)
        torch.testing.assert_close(second[row : row + 1], alone[:, n:], atol=1e-12, rtol=0)


def test_rows_do_not_mix(parts):
    _, mixer, position = parts
    x = torch.randn(3, T, D, dtype=torch.float64)
    torch.testing.assert_close(run(mixer, position, x)[1:2], run(mixer, position, x[1:2]), atol=1e-13, rtol=0)


def test_packed_documents_do_not_leak(parts):
    _, mixer, position = parts
    segments = torch.tensor([[1] * 4 + [2] * 6 + [0] * 3])
    x = torch.randn(1, T, D, dtype=torch.float64, requires_grad=True)
    packed = run(mixer, position, x, segments)
    torch.testing.assert_close(packed[:, :4], run(mixer, position, x[:, :4]), atol=1e-12, rtol=0)
    torch.testing.assert_close(packed[:, 4:10], run(mixer, position, x[:, 4:10]), atol=1e-12, rtol=0)
    packed[:, 4:10].sum().backward()
    assert torch.equal(x.grad[:, :4], torch.zeros_like(x.grad[:, :4]))
    assert torch.isfinite(packed).all()


def test_rollback_forgets(parts):
    _, mixer, position = parts
    x = torch.randn(2, T, D, dtype=torch.float64)
    state = new_state(mixer, 2)
    read(mixer, position, state, x[:, :5], torch.tensor([5, 5]))
    mark = state.checkpoint()
    wanted = read(mixer, position, state, x[:, 5:6])
    read(mixer, position, state, x[:, 6:7])
    state.rollback(mark)
    torch.testing.assert_close(read(mixer, position, state, x[:, 5:6]), wanted, atol=0, rtol=0)


def test_state_size_is_what_the_page_claims(parts):
    kind, mixer, _ = parts
    assert new_state(mixer, 2).nbytes == 8 * 2 * MAX_LEN * STATE_NUMBERS_PER_TOKEN[kind](mixer)


def test_state_refuses_more_than_its_room(parts):
    _, mixer, position = parts
    state = new_state(mixer, 1)
    x = torch.randn(1, MAX_LEN, D, dtype=torch.float64)
    read(mixer, position, state, x, torch.tensor([MAX_LEN]))
    with pytest.raises(ValueError, match=rf"holds {MAX_LEN} tokens, asked for {MAX_LEN + 1}; raise max_len"):
        read(mixer, position, state, x[:, :1])


def test_gradients_are_those_of_finite_differences(parts):
    _, mixer, position = parts
    x = torch.randn(1, 5, D, dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([[1, 1, 2, 2, 2]])
    assert torch.autograd.gradcheck(lambda x: run(mixer, position, x, segments), (x,))


def test_bf16_is_close_to_fp32(parts):
    _, mixer, position = parts
    x = torch.randn(2, T, D)
    exact = run(mixer.float(), position, x)
    rounded = run(mixer.bfloat16(), position, x.bfloat16()).float()
    assert (rounded - exact).abs().max() < 2e-2 * exact.abs().max() + 1e-2


def test_num_params_counts_every_weight_once():
    data = {
        "d_model": D, "n_layers": 2, "max_len": 16, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2}, "ffn": {"kind": "swiglu", "d_ff": 30},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    model = Decoder(from_dict(ModelConfig, data, "test"), 50)
    block = D * (4 + 2 * 2) * 6 + 24 * D + 3 * D * 30 + 2 * D
    assert model.num_params() == 50 * D + 2 * block + D
    data["tied_head"] = False
    assert Decoder(from_dict(ModelConfig, data, "test"), 50).num_params() == 2 * 50 * D + 2 * block + D
