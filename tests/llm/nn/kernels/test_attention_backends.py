"""Which form of attention is chosen, that the choice changes nothing, and that wrong choices are named."""

import math
import sys
import types

import pytest
import torch

from llm.nn.kernels import attention
from llm.nn.kernels.attention import BACKENDS, RUN, attend, attend_naive, backend, full_mask, visible_mask
from llm.nn.mixers.base import segment_mask
from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import from_dict

HERE = [name for name in BACKENDS if name not in ("auto", "triton")]  # what runs without a GPU
TRAINS = [name for name in HERE if name != "flex"]


def inputs(T=21, dtype=torch.float64, grad=True, H=8, V=8):
    torch.manual_seed(0)
    made = (torch.randn(2, n, T, w, dtype=dtype) for n, w in ((6, H), (3, H), (3, V)))
    return [x.requires_grad_(grad) for x in made]


SEGMENTS = torch.tensor([[1] * 5 + [2] * 9 + [3] * 4 + [0] * 3, [1] * 20 + [2]])


def arguments(case, q):
    """(arguments of attend, the dense mask they mean)."""
    T = q.shape[2]
    bias = torch.randn(6, T, T, dtype=q.dtype, generator=torch.Generator().manual_seed(1))
    own = (
        full_mask(q, None, None).masked_fill(torch.rand(T, T) < 0.3, -math.inf).fill_diagonal_(0)[None, None]
    )
    packed = segment_mask(SEGMENTS, q.dtype)
    return {
        "whole": ({"mask": None, "bias_NTS": None}, full_mask(q, None, None)),
        "bias": ({"mask": None, "bias_NTS": bias}, full_mask(q, None, bias)),
        "packed": ({"mask": packed, "bias_NTS": None}, packed),
        "packed, told by numbers": (
            {"mask": lambda: packed, "bias_NTS": None, "segments_BT": SEGMENTS},
            packed,
        ),
        "numbers alone": ({"mask": None, "bias_NTS": None, "segments_BT": SEGMENTS}, packed),
        "packed with bias": (
            {"mask": lambda: packed, "bias_NTS": bias, "segments_BT": SEGMENTS},
            packed + bias,
        ),
        "a mask of one's own": ({"mask": own, "bias_NTS": None, "scale": 0.2}, own),
    }[case]


CASES = [
    "whole",
    "bias",
    "packed",
    "packed, told by numbers",
    "numbers alone",
    "packed with bias",
    "a mask of one's own",
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "widths"), [*((name, (8, 5)) for name in HERE), ("sdpa", (8, 8)), ("sdpa", (6, 8))], ids=str
)
def test_every_form_gives_the_equation(monkeypatch, name, case, widths):
    monkeypatch.setenv("LLM_ATTENTION", name)
    q, k, v = inputs(grad=name in TRAINS, H=widths[0], V=widths[1])
    given, mask = arguments(case, q)
    ours, wanted = attend(q, k, v, **given), attend_naive(q, k, v, mask, given.get("scale"))
    torch.testing.assert_close(ours, wanted, atol=1e-12, rtol=0)
    if name in TRAINS:
        d_out = torch.randn_like(ours)
        for mine, his in zip(
            *(torch.autograd.grad((y * d_out).sum(), (q, k, v)) for y in (ours, wanted)), strict=True
        ):
            torch.testing.assert_close(mine, his, atol=1e-12, rtol=0)


def test_the_mask_of_documents_is_that_of_the_mixers():
    assert torch.equal(visible_mask(SEGMENTS, torch.float32), segment_mask(SEGMENTS, torch.float32))


def test_tiled_forms_never_ask_for_the_matrix(monkeypatch):
    def matrix():
        raise AssertionError("made a T x T mask")

    q, k, v = inputs(grad=False)
    for name in ("flash", "flex"):
        monkeypatch.setenv("LLM_ATTENTION", name)
        attend(q, k, v, mask=matrix, bias_NTS=None, segments_BT=SEGMENTS)


def chosen(T, dtype, device="cpu", packed=False, added=False, width=16):
    q = torch.empty(1, 2, T, width, dtype=dtype, device=device)
    return backend(q, q, packed=packed, added=added)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("T", [1, 256, 1024])
def test_rows_of_a_training_run_on_a_cpu_stay_whole_matrices(T, dtype, packed, added):
    assert chosen(T, dtype, packed=packed, added=added) == "matmul"


def test_long_rows_on_a_cpu():
    assert chosen(1025, torch.float32) == "sdpa"
    assert chosen(1025, torch.bfloat16) == "flash"
    assert chosen(1025, torch.float32, packed=True) == "flash"
    assert chosen(1025, torch.float32, added=True) == "flash"


def test_other_devices_take_pytorchs_kernel():
    for packed in (False, True):
        assert chosen(64, torch.float32, device="meta", packed=packed) == "sdpa"


class OnGPU:
    """A tensor as the choice sees one on a GPU."""

    is_cuda, device, requires_grad = True, torch.device("cuda"), True

    def __init__(self, dtype=torch.bfloat16, width=64):
        self.dtype, self.shape = dtype, (4, 8, 2048, width)


@pytest.fixture
def triton_there(monkeypatch):
    """As if triton were installed and its kernel tried; the module itself cannot be imported without it."""
    trials = []
    fake = types.ModuleType("llm.nn.kernels.flash_triton")
    fake.DTYPES, fake.MAX_WIDTH = (torch.bfloat16, torch.float16, torch.float32), 256
    fake.answer = True
    fake.agrees = lambda *key: trials.append(key) or fake.answer
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    fake.trials = trials
    return fake


def test_packed_rows_on_a_gpu_take_triton_once_it_agreed(triton_there):
    x = OnGPU()
    assert backend(x, x, packed=True, added=False) == "triton"
    assert triton_there.trials == [(torch.device("cuda"), torch.bfloat16, 64, 64)]
    triton_there.answer = False
    assert backend(x, x, packed=True, added=False) == "sdpa"


@pytest.mark.parametrize(
    ("x", "packed", "added"),
    [
        (OnGPU(), False, False),
        (OnGPU(), True, True),
        (OnGPU(torch.float64), True, False),
        (OnGPU(width=512), True, False),
    ],
)
def test_everything_else_on_a_gpu_takes_pytorchs_kernel(triton_there, x, packed, added):
    assert backend(x, x, packed=packed, added=added) == "sdpa"
    assert triton_there.trials == []


def test_without_triton_a_gpu_takes_pytorchs_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    x = OnGPU()
    assert backend(x, x, packed=True, added=False) == "sdpa"


@pytest.mark.parametrize(
    ("x", "added", "message"),
    [
        (torch.empty(1, 1, 4, 16), False, r"needs a CUDA GPU, found cpu"),
        (OnGPU(), True, r"takes no bias and no mask but that of documents"),
        (OnGPU(torch.float64), False, r"takes no torch.float64 heads of width 64"),
        (OnGPU(width=300), False, r"takes no torch.bfloat16 heads of width 300"),
    ],
)
def test_triton_by_name_where_it_cannot_be(monkeypatch, triton_there, x, added, message):
    monkeypatch.setenv("LLM_ATTENTION", "triton")
    with pytest.raises(ValueError, match=f"LLM_ATTENTION: 'triton' {message}; use auto or flash"):
        backend(x, x, packed=True, added=added)


def test_flex_by_name_trains_on_no_cpu(monkeypatch):
    monkeypatch.setenv("LLM_ATTENTION", "flex")
    q, k, v = inputs()
    with pytest.raises(
        ValueError, match="LLM_ATTENTION: 'flex' has no backward pass on a CPU; use auto or flash"
    ):
        attend(q, k, v, mask=None, bias_NTS=None)
    with torch.no_grad():
        attend(q, k, v, mask=None, bias_NTS=None)


def test_a_name_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("LLM_ATTENTION", "fast")
    with pytest.raises(
        ValueError, match="LLM_ATTENTION: 'fast' is not one of auto, naive, matmul, flash, sdpa, flex, triton"
    ):
        attend(*inputs(), mask=None, bias_NTS=None)
    assert set(RUN) == set(BACKENDS) - {"auto"}


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_a_whole_model_learns_the_same_under_every_form(monkeypatch, position):
    data = {
        "d_model": 24, "n_layers": 2, "max_len": 32, "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2}, "ffn": {"kind": "swiglu", "d_ff": 30},
        "norm": {"kind": "rmsnorm"}, "position": {"kind": position}, "init": {"kind": "gpt2", "std": 0.3},
    }  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(from_dict(ModelConfig, data, "test"), 40).double()
    tokens = torch.randint(40, (2, 22))
    batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 21, dtype=torch.bool), SEGMENTS)
    found = {}
    for name in ("auto", *TRAINS):
        monkeypatch.setenv("LLM_ATTENTION", name)
        model.zero_grad()
        next_token_loss(model, batch).sum.backward()
        found[name] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert found["auto"].abs().max() > 0.1
    assert torch.equal(found["auto"], found["matmul"])
    for name in TRAINS:
        torch.testing.assert_close(found[name], found["auto"], atol=1e-10, rtol=0)
    with torch.no_grad():
        logits = {}
        for name in ("auto", "flex"):
            monkeypatch.setenv("LLM_ATTENTION", name)
            logits[name] = model(tokens[:, :-1], SEGMENTS)
    torch.testing.assert_close(logits["flex"], logits["auto"], atol=1e-10, rtol=0)
