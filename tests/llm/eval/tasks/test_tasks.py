"""What is special about each file in llm/eval/tasks; what they share is in tests/laws/test_eval_tasks.py."""

import pytest
import torch

from llm.data.document import Document
from llm.eval.metrics.bleu import corpus_bleu
from llm.eval.metrics.distinct import distinct_n
from llm.eval.metrics.rouge import rouge_l
from llm.eval.scoring import Row, batches_by_length, score_rows
from llm.eval.tasks import base, bpb, choice, cloze, continuation, rules
from llm.infer.generate import Completions
from llm.infer.sampling import SamplingParams
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict


class Letters:
    """A tokenizer of single characters, special tokens as in the real one."""

    eot_id, pad_id, im_start_id, im_end_id = 0, 1, 2, 3
    vocab_size, chat_template_version = 132, 1

    def encode_batch(self, texts):
        return [[4 + ord(c) % 128 for c in text] for text in texts]

    def decode(self, ids, skip_special=False):
        assert skip_special
        return "".join(chr(i - 4) for i in ids if i > 3)


def subject(max_len=200, seed=0):
    torch.manual_seed(seed)
    config = {
        "d_model": 16,
        "n_layers": 1,
        "max_len": max_len,
        "tied_head": False,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1},
        "ffn": {"kind": "swiglu", "d_ff": 24},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.3},
    }
    model = Decoder(from_dict(ModelConfig, config, "tiny"), Letters.vocab_size).eval()
    return base.Subject("toy", model, Letters(), seed)


def document(kind="tales", text="", **data):
    return Document(id="d", source="toy", kind=kind, licence="CC0", work="w", text=text, data=data)


def logps(model, ids):
    """log p of every token but the first, one plain forward pass."""
    with torch.no_grad():
        table = torch.log_softmax(model(torch.tensor([ids[:-1]]))[0].double(), -1)
    return [float(table[t, ids[t + 1]]) for t in range(len(ids) - 1)]


# ---------------------------------------------------------------- scoring


def test_scores_are_those_of_single_rows():
    model = subject().model
    rows = [Row([0, 5, 6, 7, 8], 2), Row([0, 9], 1), Row([0, *range(10, 30)], 20)]
    for row, score in zip(rows, score_rows(model, rows, batch_tokens=25), strict=True):
        assert score.logps.tolist() == pytest.approx(logps(model, row.ids)[-row.n_scored :], abs=1e-5)
        with torch.no_grad():
            best = model(torch.tensor([row.ids]))[0].argmax(-1)[:-1]
        assert score.first.tolist() == (best == torch.tensor(row.ids[1:]))[-row.n_scored :].tolist()


def test_the_first_choice_is_recognised():
    model, ids = subject().model, [0, 5, 6]
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    [score] = score_rows(model, [Row(ids, 5)], batch_tokens=99)
    assert score.first.tolist() == [False, True, True, True, True]


def test_batches_hold_like_lengths_and_no_more_than_asked():
    lengths = [3, 9, 1, 9, 4, 30]
    batches = batches_by_length(lengths, 20)
    assert batches == [[5], [1, 3], [4, 0, 2]]
    assert all(len(b) * max(lengths[i] for i in b) <= 20 or len(b) == 1 for b in batches)


def test_a_row_without_context_is_refused():
    with pytest.raises(ValueError, match="3 of 3 tokens cannot be scored"):
        Row([1, 2, 3], 3)


# ---------------------------------------------------------------- choice


def pair(prompt, chosen, rejected):
    return document("easy", prompt=[{"role": "user", "content": prompt}], chosen=chosen, rejected=rejected)


def reply_logp(player, prompt, reply):
    """Summed log-probability of a reply and its end of turn, by a plain forward pass."""
    letters = Letters()
    header = [0, 2, *letters.encode_batch([f"user\n{prompt}"])[0], 3, *letters.encode_batch(["\n"])[0]]
    header += [2, *letters.encode_batch(["assistant\n"])[0]]
    return sum(logps(player.model, [*header, *letters.encode_batch([reply])[0], 3])[-len(reply) - 1 :])


def test_choice_compares_sums_means_and_what_the_prompt_adds():
    player = subject()
    [record] = choice.build(choice.Config()).run(player, [pair("hi", "yes", "not at all")])
    sums, alone = (
        {"chosen": reply_logp(player, p, "yes"), "rejected": reply_logp(player, p, "not at all")}
        for p in ("hi", "")
    )
    pmi = {side: sums[side] - alone[side] for side in sums}
    for side in sums:
        assert record[f"logp_{side}"] == pytest.approx(sums[side], abs=1e-4)
        assert record[f"pmi_{side}"] == pytest.approx(pmi[side], abs=1e-4)
    assert record["n_tokens"] == [4, 11]
    assert record["scores"]["margin"] == pytest.approx(sums["chosen"] - sums["rejected"], abs=1e-4)
    assert record["scores"]["accuracy"] == float(sums["chosen"] > sums["rejected"])
    assert record["scores"]["accuracy_per_token"] == float(sums["chosen"] / 4 > sums["rejected"] / 11)
    assert record["scores"]["accuracy_pmi"] == float(pmi["chosen"] > pmi["rejected"])


def test_every_pair_gets_its_own_four_scores():
    player = subject()
    pairs = [pair("hi", "yes", "not at all"), pair("a longer one", "no", "never"), pair("x", "maybe so", "y")]
    together = choice.build(choice.Config()).run(player, pairs)
    for one, record in zip(pairs, together, strict=True):
        [apart] = choice.build(choice.Config()).run(player, [one])
        for key in ("logp_chosen", "logp_rejected", "pmi_chosen", "pmi_rejected"):
            assert record[key] == pytest.approx(apart[key], abs=1e-4)


def test_equal_replies_are_a_tie_and_a_tie_is_wrong():
    [record] = choice.build(choice.Config()).run(subject(), [pair("hi", "same", "same")])
    assert set(record["scores"].values()) == {0.0}


def test_a_long_prompt_loses_its_beginning_and_the_reply_is_kept():
    player = subject(max_len=20)
    [record] = choice.build(choice.Config()).run(player, [pair("x" * 50, "abc", "de")])
    assert record["n_tokens"] == [4, 3]
    assert record["n_cut"] > 0
    tail = [*Letters().encode_batch(["assistant\nabc"])[0], 3]
    ids = (Letters().encode_batch(["x" * 50])[0] + [3, 14, 2] + tail)[-21:]
    assert record["logp_chosen"] == pytest.approx(sum(logps(player.model, ids)[-4:]), abs=1e-4)


# ---------------------------------------------------------------- cloze


def test_cloze_asks_for_plain_last_words_of_long_enough_sentences():
    text = "The king and his men went home. It was late. Then he saw the old Queen! "
    text += "She gave him a ring, a cup, and gold; and so on to the end of it? yes yes yes yes yes he ran"
    found = cloze.find_examples("d", "tales", text)
    # "late": too short a sentence; "Queen": capital; "gold": no sentence end; "it": too short; "ran": no full stop
    assert [(e.word, e.context.split()[-1]) for e in found] == [("home", "went")]
    assert found[0].id == "d#25"


def test_cloze_accuracy_is_what_greedy_decoding_would_write():
    player = subject()
    wrong = cloze.Example("a", "tales", "one two three four five", "zzz")
    ids = [0, *Letters().encode_batch([wrong.context])[0]]
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(player.model(torch.tensor([ids]))[0, -1].argmax()))
    records = cloze.build(cloze.Config(context_tokens=100)).run(player, [wrong])
    assert records[0]["scores"]["accuracy"] == 0
    expected = [0, *Letters().encode_batch([wrong.context + " zzz"])[0]]
    assert records[0]["scores"]["nats"] == pytest.approx(-sum(logps(player.model, expected)[-4:]), abs=1e-4)

    tokenizer = Letters()
    tokenizer.encode_batch = lambda texts: [
        ids[-3:] if t == " right" else Letters().encode_batch([t])[0] for t in texts
    ]
    right = cloze.Example("a", "tales", wrong.context, "right")
    records = cloze.build(cloze.Config(context_tokens=100)).run(
        base.Subject("t", player.model, tokenizer, 0), [right]
    )
    assert records[0]["scores"]["accuracy"] == 1


def test_cloze_names_the_kinds_there_are(tmp_path):
    from llm.data.document import write_documents

    write_documents(tmp_path / "pretrain" / "validation.jsonl", [document("chat", "A: hi")])
    with pytest.raises(ValueError, match=r"eval.cloze.document_kind: .*'tales'; there are kinds chat"):
        cloze.build(cloze.Config()).load(tmp_path)
    with pytest.raises(ValueError, match=r"eval.continuation.document_kind: .*'tales'; there are kinds chat"):
        continuation.build(continuation.Config()).load(tmp_path)


# ---------------------------------------------------------------- generation


def scripted(monkeypatch, answers):
    """Let `generate` return `answers[prompt text]` instead of asking the model; collects the calls."""
    calls = []

    def fake(model, prompts, **settings):
        calls.append((prompts, settings))
        rows = [answers(Letters().decode(prompt, skip_special=True)) for prompt in prompts]
        return Completions(rows, [[0.0] * len(row) for row in rows], [True] * len(rows))

    monkeypatch.setattr(base, "generate", fake)
    return calls


def test_rules_scores_text_and_ending_and_averages_samples_of_a_prompt(monkeypatch):
    def answer(prompt):
        ids = Letters().encode_batch(["4" if "2 + 2" in prompt else "five"])[0]
        return [*ids, 3] if "2 + 2" in prompt else [*ids, 0]  # the second ends the text, not the turn

    calls = scripted(monkeypatch, answer)
    examples = [
        Document(
            id=text,
            source="t",
            kind="sums",
            licence="",
            work="w",
            data={"prompt": [{"role": "user", "content": text}], "rule": {"kind": "sum", "answer": result}},
        )
        for text, result in (("2 + 2", "4"), ("2 + 3", "5"))
    ]
    task = rules.build(rules.Config(samples=3, max_new_tokens=7, temperature=0.5))
    records = task.run(subject(), examples)
    assert [record["answer"] for record in records] == ["4"] * 3 + ["five"] * 3
    assert [record["scores"]["reward"] for record in records] == [1, 1, 1, 0, 0, 0]
    results = task.summarise(records)
    assert (results["reward"]["all"].value, results["reward"]["all"].n) == (0.5, 2)
    assert results["ended"]["all"].value == 0.5
    [(_, settings)] = calls
    assert settings["stop_ids"] == {0, 3}
    assert settings["max_new_tokens"] == 7
    assert settings["sampling"] == SamplingParams(temperature=0.5)


def test_complete_returns_answers_in_the_order_of_the_prompts(monkeypatch):
    monkeypatch.setattr(base, "BATCH_ROWS", 2)
    calls = scripted(monkeypatch, lambda text: Letters().encode_batch([text.upper()])[0])
    texts = ["ddd", "a", "cc", "bbbbb", "e"]
    prompts = Letters().encode_batch(texts)
    settings = {"task": "t", "max_new_tokens": 3, "sampling": SamplingParams(), "stop_ids": [0]}
    answers = base.complete(subject(), prompts, **settings)
    assert [Letters().decode(ids, skip_special=True) for ids in answers] == [text.upper() for text in texts]
    assert [[len(p) for p in batch] for batch, _ in calls] == [[1, 1], [2, 3], [5]]


def test_continuation_scores_are_those_of_the_metrics(monkeypatch):
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    monkeypatch.setattr(
        continuation, "validation", lambda raw, name: [document("tales", text), document("chat", text)]
    )
    task = continuation.build(continuation.Config(prompt_words=2, reference_words=4, max_new_tokens=50))
    passages = task.load(None)
    assert [(p.prompt, p.reference) for p in passages] == [
        ("one two", "three four five six"),
        ("seven eight", "nine ten eleven twelve"),
    ]
    written = {"one two": " three four six six and more\nwords", "seven eight": " nine ten eleven twelve"}
    scripted(monkeypatch, lambda prompt: Letters().encode_batch([written[prompt]])[0])
    records = task.run(subject(), passages)
    answers, references = ["three four six six", "nine ten eleven twelve"], [p.reference for p in passages]
    assert [record["answer"] for record in records] == answers
    results = task.summarise(records)
    assert results["bleu"]["all"].value == pytest.approx(corpus_bleu(answers, [[r] for r in references]))
    assert results["distinct_1"]["all"].value == distinct_n(answers, 1) == 7 / 8
    assert results["distinct_2_real"]["all"].value == 1
    overlap = [rouge_l(a, r).f1 for a, r in zip(answers, references, strict=True)]
    assert results["rouge_l"]["all"].value == pytest.approx(sum(overlap) / 2)


def test_bpb_counts_the_bytes_of_the_raw_text():
    player = subject()
    texts = ["héllo", "no"]
    documents = [document("tales", text) for text in texts]
    records = bpb.build(bpb.Config(seq_len=50, stride=25)).run(player, documents)
    assert [record["n_bytes"] for record in records] == [6, 2]
    expected = [-sum(logps(player.model, [0, *Letters().encode_batch([t])[0]])) for t in texts]
    assert [record["nats"] for record in records] == pytest.approx(expected, abs=1e-4)


def test_bpb_in_bf16_is_close_and_leaves_the_model_alone():
    player = subject()
    documents = [document("tales", text="ünder the sea " * 9), document("chat", text="hello")]
    wide, narrow = (
        bpb.build(bpb.Config(seq_len=50, stride=25, precision=precision)).run(player, documents)
        for precision in ("fp32", "bf16")
    )
    assert player.model.embedding.weight.dtype == torch.float32
    for one, other in zip(wide, narrow, strict=True):
        assert other["nats"] != one["nats"]  # it really is another precision
        assert other["nats"] == pytest.approx(one["nats"], rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bpb.Config(seq_len=4, stride=5), r"stride \(5\) must be from 1 to seq_len \(4\)"),
        (lambda: cloze.Config(context_tokens=0), r"context_tokens \(0\)"),
        (lambda: rules.Config(samples=0), r"samples \(0\)"),
        (lambda: continuation.Config(prompt_words=0), r"prompt_words \(0\)"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
