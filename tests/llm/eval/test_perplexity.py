"""What is special about llm/eval/perplexity.py: every token once, whatever the windows and batches."""

import math

import pytest
import torch

from llm.eval import perplexity
from llm.eval.perplexity import DocumentScore, bits_per_byte, score_documents
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict

TINY = {
    "d_model": 16,
    "n_layers": 2,
    "max_len": 64,
    "tied_head": False,
    "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1, "qk_norm": True},
    "ffn": {"kind": "swiglu", "d_ff": 24},
    "norm": {"kind": "rmsnorm"},
    "position": {"kind": "rope"},
    "init": {"kind": "gpt2", "std": 0.3},
}


def tiny_decoder():
    torch.manual_seed(0)
    return Decoder(from_dict(ModelConfig, TINY, "tiny"), 50)


def documents(lengths, vocab=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(4, vocab, (n,), generator=generator).tolist() for n in lengths]
    return [
        ([0, *text, 0], 3 * len(text) or 1, "even" if i % 2 == 0 else "odd") for i, text in enumerate(texts)
    ]


def slow_nats(model, ids, seq_len, stride):
    """One forward pass per target token, with exactly the context its window gives it."""
    total = 0.0
    for t in range(1, len(ids)):
        # the first window scores up to target seq_len, each later one the next `stride`
        end = min(
            len(ids) - 1, seq_len if t <= seq_len else seq_len + math.ceil((t - seq_len) / stride) * stride
        )
        begin = max(0, end - seq_len)
        logits = model(torch.tensor([ids[begin:t]]))[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[ids[t]])
    return total


@pytest.mark.parametrize(("seq_len", "stride"), [(8, 4), (8, 3), (8, 8), (5, 1), (64, 32)])
def test_equals_one_forward_per_token(seq_len, stride):
    model = tiny_decoder()
    docs = documents([3, 8, 9, 20, 31, 1])
    with torch.no_grad():
        expected = [slow_nats(model, ids[:-1], seq_len, stride) for ids, _, _ in docs]
    scores = score_documents(model, docs, seq_len=seq_len, stride=stride, batch_rows=3)
    assert [score.n_tokens for score in scores] == [3, 8, 9, 20, 31, 1]
    assert [score.nats for score in scores] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 7])
def test_windows_score_every_target_exactly_once(stride):
    for n_tokens in range(1, 40):
        counts = [0] * n_tokens
        for _, row in perplexity._windows(0, list(range(n_tokens)), 7, stride):
            assert len(row.ids) <= 8
            for target in row.ids[-row.n_scored :]:
                counts[target] += 1
        assert counts == [0] + [1] * (n_tokens - 1)


def test_uniform_model_costs_log_v_per_token():
    model = tiny_decoder()
    torch.nn.init.zeros_(model.head.weight)
    docs = documents([10, 23])
    result = bits_per_byte(model, docs, seq_len=8)
    assert result == pytest.approx(dict.fromkeys(("even", "odd", "all"), math.log2(50) / 3), rel=1e-6)


def test_batching_and_order_do_not_matter_and_the_mode_is_kept():
    model = tiny_decoder().train()
    docs = documents([12, 30, 5, 17])
    alone = [score_documents(model, [doc], seq_len=8)[0].nats for doc in docs]
    together = [score.nats for score in score_documents(model, docs, seq_len=8, batch_rows=2)]
    assert together == pytest.approx(alone, rel=1e-6)
    assert model.training


def test_the_closing_eot_is_not_scored_and_a_missing_one_changes_nothing():
    model = tiny_decoder()
    [(ids, n_bytes, kind)] = documents([9])
    with_eot = bits_per_byte(model, [(ids, n_bytes, kind)], seq_len=16)
    without = bits_per_byte(model, [(ids[:-1], n_bytes, kind)], seq_len=16)
    assert with_eot == without


def test_ratio_is_a_ratio_of_sums_with_the_delta_method_error():
    scores = [DocumentScore("a", nats, n_bytes, 1) for nats, n_bytes in ((8.0, 4), (10.0, 8), (3.0, 4))]
    value, error = perplexity.ratio(scores)
    assert value == pytest.approx(21 / 16 / math.log(2))
    # residuals 8-5.25, 10-10.5, 3-5.25; sqrt(3/2 * (7.5625+.25+5.0625)) / 16 / ln 2
    assert error == pytest.approx(math.sqrt(1.5 * 12.875) / 16 / math.log(2))
    assert math.isnan(perplexity.ratio(scores[:1])[1])


def test_bad_stride_and_empty_corpus_are_named():
    with pytest.raises(ValueError, match=r"eval.stride: 9 must be from 1 to seq_len \(8\)"):
        score_documents(tiny_decoder(), documents([3]), seq_len=8, stride=9)
    with pytest.raises(ValueError, match="no bytes to score"):
        bits_per_byte(tiny_decoder(), [], seq_len=8)
