"""One row decodes as a vector: whatever stands in a block must take it as it takes whole rows."""

import pytest
import torch

from llm import registry
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict

SLOTS = {
    "ffn": "llm.nn.ffn",
    "norm": "llm.nn.norm",
    "residual": "llm.nn.residual",
    "position": "llm.nn.position",
}
KINDS = [
    (slot, kind) for slot, package in SLOTS.items() for kind in registry.kinds(package) if kind != "alternate"
]


@pytest.mark.parametrize(("slot", "kind"), KINDS, ids=lambda value: value)
def test_a_single_row_decodes_as_it_reads(slot, kind):
    parts = {
        "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2, "qk_norm": True}, "ffn": {"kind": "swiglu"},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"}, "init": {"kind": "gpt2", "std": 0.2},
    }  # fmt: skip
    sizes = {"d_model": 24, "n_layers": 2, "max_len": 32, "tied_head": False}
    torch.manual_seed(0)
    config = from_dict(ModelConfig, sizes | parts | {slot: {"kind": kind}}, "test")
    model = Decoder(config, 50).double().eval()
    tokens_1T = torch.randint(50, (1, 13))
    with torch.inference_mode():
        states = model.init_state(1)
        steps = [model.prefill(tokens_1T[:, :4], states)]
        steps += [model.decode(tokens_1T[:, t : t + 1], states) for t in range(4, 13)]
        torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens_1T), atol=1e-10, rtol=0)
