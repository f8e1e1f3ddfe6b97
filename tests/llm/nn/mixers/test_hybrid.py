"""hybrid: each layer gets the part its pattern names, and the whole model decodes as it reads."""

import pytest
import torch

from llm.nn.model import Decoder, ModelConfig
from llm.params import ParamsError, from_dict

WIDE = {"kind": "gqa", "gqa": {"n_heads": 4, "n_kv_heads": 4}}
NARROW = {"kind": "gqa", "gqa": {"n_heads": 2, "n_kv_heads": 1}}


def config(hybrid, **changes):
    data = {
        "d_model": 16, "n_layers": 5, "max_len": 24, "tied_head": True,
        "mixer": {"kind": "hybrid", "hybrid": hybrid}, "ffn": {"kind": "swiglu", "d_ff": 24},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2"},
    }  # fmt: skip
    return from_dict(ModelConfig, data | changes, "p")


def test_layers_follow_the_pattern_and_repeat_it():
    model = Decoder(config({"pattern": ["first", "second"], "first": NARROW, "second": WIDE}), 30)
    assert [block.mixer.n_kv_heads for block in model.layers] == [1, 4, 1, 4, 1]
    assert [state.nbytes for state in model.init_state(1)] == [
        2 * 4 * 24 * mixer.n_kv_heads * mixer.d_head for mixer in (block.mixer for block in model.layers)
    ]


def test_one_rotation_serves_heads_of_different_widths():
    torch.manual_seed(0)
    model = Decoder(config({"pattern": ["first", "second"], "first": NARROW, "second": WIDE}), 30).double()
    tokens = torch.randint(30, (2, 20))
    states = model.init_state(2)
    first = model.prefill(tokens[:, :7], states)
    rest = [model.decode(tokens[:, t : t + 1], states) for t in range(7, 20)]
    torch.testing.assert_close(torch.cat([first, *rest], 1), model(tokens), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("hybrid", "message"),
    [
        ({"pattern": [], "first": WIDE, "second": WIDE}, r"pattern \(\[\]\) must name at least one part"),
        ({"pattern": ["third"], "first": WIDE, "second": WIDE}, "'third' is not one of first, second"),
        ({"first": WIDE}, "hybrid.second: missing key"),
        (
            {"first": {"kind": "hybrid", "hybrid": {"first": WIDE, "second": WIDE}}, "second": WIDE},
            r"first \(hybrid\) must not be a hybrid itself",
        ),
    ],
)
def test_wrong_configs_are_named(hybrid, message):
    with pytest.raises(ParamsError, match=message):
        config(hybrid)


def test_a_layer_knows_how_many_before_it_are_of_its_part():
    parts = {"first": {"kind": "rwkv7", "rwkv7": {"d_head": 8}}, "second": NARROW}
    model = Decoder(config({"pattern": ["second", "first"], **parts}), 30)
    mixers = [model.layers[n].mixer for n in (1, 3)]
    assert [mixer.site.turn for mixer in mixers] == [0, 1]
    assert [mixer.value is None for mixer in mixers] == [True, False]
