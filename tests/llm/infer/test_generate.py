"""Generation: greedy equals the argmax of full forwards, rows do not touch each other, stops are kept."""

import pytest
import torch

from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict

PROMPTS = [[3, 4, 5], [7, 9, 11, 13, 2, 8, 30], [1]]
GREEDY = SamplingParams(temperature=0)


def _model() -> Decoder:
    config = {
        "d_model": 32,
        "n_layers": 2,
        "max_len": 64,
        "tied_head": False,
        "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2},
        "ffn": {"kind": "swiglu", "d_ff": 48},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.3},
    }
    torch.manual_seed(0)
    return Decoder(from_dict(ModelConfig, config, "model"), 40).eval()


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _naive(model: Decoder, prompt: list[int], count: int, stop_ids: set[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] in stop_ids:
            break
    return tokens[len(prompt) :]


def test_greedy_equals_full_forwards_and_ignores_other_rows() -> None:
    model = _model()
    expected = [_naive(model, prompt, 15, {6}) for prompt in PROMPTS]
    batch = generate(model, PROMPTS, max_new_tokens=15, sampling=GREEDY, stop_ids={6}, generator=_generator())
    assert batch.tokens == expected
    assert batch.finished == [row[-1] == 6 for row in expected]
    for prompt, row in zip(PROMPTS, expected, strict=True):
        alone = generate(
            model, [prompt], max_new_tokens=15, sampling=GREEDY, stop_ids={6}, generator=_generator()
        )
        assert alone.tokens == [row]


def test_rows_end_at_their_own_stop_token() -> None:
    model = _model()
    free = generate(
        model, PROMPTS, max_new_tokens=12, sampling=GREEDY, stop_ids=set(), generator=_generator()
    )
    assert [len(row) for row in free.tokens] == [12] * 3
    assert free.finished == [False] * 3
    stop = free.tokens[1][4]
    cut = generate(
        model, PROMPTS, max_new_tokens=12, sampling=GREEDY, stop_ids={stop}, generator=_generator()
    )
    for whole, row, finished in zip(free.tokens, cut.tokens, cut.finished, strict=True):
        assert finished == (stop in whole)
        assert row == (whole[: whole.index(stop) + 1] if finished else whole)


def test_logps_equal_those_of_a_forward_pass() -> None:
    model = _model()
    sampling = SamplingParams(temperature=0.8, top_k=10)
    out = generate(
        model, PROMPTS, max_new_tokens=9, sampling=sampling, stop_ids=set(), generator=_generator()
    )
    for prompt, tokens, logps in zip(PROMPTS, out.tokens, out.logps, strict=True):
        logits = model(torch.tensor([prompt + tokens[:-1]]))[0, len(prompt) - 1 :] / 0.8
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens)[:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(logps), expected, atol=1e-4)


def test_a_sampled_row_depends_on_its_seed_and_place_only() -> None:
    model = _model()
    ask = {"max_new_tokens": 10, "sampling": SamplingParams(temperature=1.3), "stop_ids": {6}}
    first = generate(model, PROMPTS, generator=_generator(1), **ask)  # type: ignore[arg-type]
    again = generate(model, PROMPTS, generator=_generator(1), **ask)  # type: ignore[arg-type]
    other = generate(model, [PROMPTS[0], [20, 21], [9]], generator=_generator(1), **ask)  # type: ignore[arg-type]
    reseeded = generate(model, PROMPTS, generator=_generator(2), **ask)  # type: ignore[arg-type]
    assert first.tokens == again.tokens
    assert first.tokens[0] == other.tokens[0]
    assert first.tokens != reseeded.tokens


def test_repetition_penalty_counts_prompt_and_output() -> None:
    model = _model()
    harsh = SamplingParams(temperature=0, repetition_penalty=1e6)
    out = generate(model, PROMPTS, max_new_tokens=12, sampling=harsh, stop_ids=set(), generator=_generator())
    for prompt, tokens in zip(PROMPTS, out.tokens, strict=True):
        assert len(set(prompt + tokens)) == len(prompt) + len(tokens)


def test_streaming_reports_exactly_the_tokens_that_count() -> None:
    model = _model()
    stop = _naive(model, PROMPTS[1], 5, set())[2]
    streamed: list[list[int]] = [[] for _ in PROMPTS]
    out = generate(
        model,
        PROMPTS,
        max_new_tokens=8,
        sampling=GREEDY,
        stop_ids={stop},
        generator=_generator(),
        on_token=lambda row, token: streamed[row].append(token),
    )
    assert streamed == out.tokens


def test_bfloat16_weights_generate() -> None:
    model = _model().to(torch.bfloat16)
    out = generate(
        model, PROMPTS, max_new_tokens=5, sampling=SamplingParams(), stop_ids=set(), generator=_generator()
    )
    assert [len(row) for row in out.tokens] == [5] * 3
    assert all(logp <= 0 for row in out.logps for logp in row)


def test_no_prompts_no_completions() -> None:
    out = generate(_model(), [], max_new_tokens=5, sampling=GREEDY, stop_ids=set(), generator=_generator())
    assert out.tokens == []


@pytest.mark.parametrize(
    ("prompts", "count", "message"),
    [([[]], 3, "no token"), ([[1] * 60], 5, "max_len"), ([[1]], 0, "at least 1")],
)
def test_impossible_requests_are_named(prompts: list[list[int]], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(
            _model(), prompts, max_new_tokens=count, sampling=GREEDY, stop_ids=set(), generator=_generator()
        )
