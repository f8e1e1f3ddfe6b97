"""Laws of the family llm.nn.mixers: every kind must pass every law, in float64, at odd sizes."""

import pytest
import torch

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from tests.laws.mixer_cases import STATE_NUMBERS, TINY
from tests.laws.mixer_laws import LAWS, MAX_LEN, D, T, build, new_state, read, rows, run

CASES = [(kind, index) for kind in TINY for index in range(len(TINY[kind]))]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")


def parts(case, **kwargs):
    kind, index = case
    return build(kind, TINY[kind][index], **kwargs)


def model_config(case, **changes):
    kind, index = case
    data = {
        "d_model": D, "n_layers": 2, "max_len": MAX_LEN, "tied_head": True,
        "mixer": {"kind": kind, **TINY[kind][index]}, "ffn": {"kind": "swiglu", "d_ff": 30},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    return from_dict(ModelConfig, data | changes, "test")


def test_every_kind_is_covered():
    assert sorted(TINY) == registry.kinds("llm.nn.mixers")
    assert sorted(STATE_NUMBERS) == sorted(TINY)


@EVERY_CASE
@pytest.mark.parametrize("law", LAWS)
def test_law(law, case):
    mixer, position = parts(case)
    LAWS[law](mixer, position)


@EVERY_CASE
def test_state_size_is_what_the_page_claims(case):
    mixer, position = parts(case)
    for room in (MAX_LEN // 2, MAX_LEN):
        state = new_state(mixer, 2, room)
        claimed = 8 * 2 * STATE_NUMBERS[case[0]](mixer, room)
        assert state.nbytes == claimed
        read(mixer, position, state, rows(2))
        assert state.nbytes == claimed


@EVERY_CASE
def test_state_refuses_more_than_its_room(case):
    mixer, position = parts(case)
    state = new_state(mixer, 1)
    x = rows(1, MAX_LEN)
    read(mixer, position, state, x)
    with pytest.raises(ValueError, match=rf"holds {MAX_LEN} tokens, asked for {MAX_LEN + 1}; raise max_len"):
        read(mixer, position, state, x[:, :1])


@EVERY_CASE
def test_bf16_is_close_to_fp32(case):
    mixer, position = parts(case)
    x = rows(2).float()
    exact = run(mixer.float(), position, x)
    rounded = run(mixer.bfloat16(), position, x.bfloat16()).float()
    far_BT = (rounded - exact).abs().amax(-1) > 2e-2 * exact.abs().max() + 1e-2
    # where rounding decides between two blocks, a token may read the other one
    assert far_BT.double().mean() <= (0.05 if mixer.chooses else 0)


@EVERY_CASE
def test_float32_decode_is_close_to_forward(case):
    mixer, position = parts(case)
    mixer, x = mixer.float(), rows(2, MAX_LEN).float()
    state = new_state(mixer, 2, dtype=torch.float32)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(MAX_LEN)], dim=1)
    torch.testing.assert_close(steps, run(mixer, position, x), atol=1e-4, rtol=1e-4)


@EVERY_CASE
def test_whole_model_decodes_as_it_reads_and_counts_its_weights(case):
    torch.manual_seed(0)
    model = Decoder(model_config(case), 50).double()
    assert model.num_params() == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    tokens = torch.randint(50, (2, T))
    states = model.init_state(2)
    steps = torch.cat([model.decode(tokens[:, t : t + 1], states) for t in range(T)], dim=1)
    torch.testing.assert_close(steps, model(tokens), atol=1e-10, rtol=0)
    h_BTD, aux = model.hidden(tokens)  # the indexer of dsa learns from a loss of its own only
    loss = model.head(h_BTD).square().mean()
    (loss if aux is None else loss + aux).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []


def test_num_params_counts_every_weight_once():
    config = model_config(("gqa", 0))
    model = Decoder(config, 50)
    block = D * (4 + 2 * 2) * 6 + 24 * D + 3 * D * 30 + 2 * D
    assert model.num_params() == 50 * D + 2 * block + D
    assert Decoder(model_config(("gqa", 0), tied_head=False), 50).num_params() == 2 * 50 * D + 2 * block + D
