"""Laws of every evaluation task in llm/eval/tasks, with a tiny random model on a toy set of examples."""

import json
import math

import pytest
import torch

from llm import registry
from llm.data.document import Document, write_documents
from llm.eval.harness import EvalParams, evaluate, load_subject, to_metrics
from llm.nn.io import save_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import load_tokenizer

FAMILY = "llm.eval.tasks"
KINDS = registry.kinds(FAMILY)
SETTINGS = {
    "bpb": {"seq_len": 24, "stride": 12},
    "choice": {},
    "cloze": {"context_tokens": 16},
    "rules": {"samples": 2, "max_new_tokens": 5},
    "continuation": {"prompt_words": 8, "reference_words": 4, "max_new_tokens": 6},
}
TALE = (
    "Once there was a little hen who lived in a house by the river. She asked the cat to help her with the bread. "
    "But the lazy cat would not get up from the warm bed. So the little hen did all the work alone. "
)


def document(number, kind, **fields):
    return Document(
        id=f"{kind}/{number}", source="toy", kind=kind, licence="CC0", work=f"{kind}/{number}", **fields
    )


def toy_sets(raw):
    ask = [{"role": "user", "content": "Where does the hen live?"}]
    write_documents(
        raw / "pretrain" / "validation.jsonl",
        [
            *(document(i, "tales", text=TALE * (i + 1)) for i in range(3)),
            *(document(i, "chat", text=f"A: hello\nB: hi, number {i}\nA: how are you?") for i in range(3)),
        ],
    )
    write_documents(
        raw / "preference" / "validation.jsonl",
        [
            document(
                i, kind, data={"prompt": ask, "chosen": "by the river " * i, "rejected": "no, thank you"}
            )
            for kind in ("easy", "hard")
            for i in range(1, 4)
        ],
    )
    write_documents(
        raw / "prompts" / "validation.jsonl",
        [
            document(i, "sums", data={"prompt": ask, "rule": {"kind": "sum", "answer": str(i)}})
            for i in range(4)
        ],
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(raw folder, model folder) of a toy: a 300-token BPE and an untrained two-layer model."""
    folder = tmp_path_factory.mktemp("eval")
    toy_sets(folder / "raw")
    module = registry.module("llm.tokenizer.algorithms", "bpe")
    settings = module.Config(vocab_size=300, min_frequency=1, special_tokens=())
    tokenizer = train_tokenizer(module.build(settings), [TALE], folder / "tokenizer", "toy")
    torch.manual_seed(0)
    config = {
        "d_model": 16,
        "n_layers": 2,
        "max_len": 48,
        "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1},
        "ffn": {"kind": "swiglu", "d_ff": 24},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.2},
    }
    model = Decoder(from_dict(ModelConfig, config, "tiny"), tokenizer.vocab_size)
    save_model(folder / "model", model, stage="test", tokenizer=folder / "tokenizer")
    return folder / "raw", folder / "model"


def task_of(kind):
    return registry.build(registry.module(FAMILY, kind).Config(**SETTINGS[kind]))


@pytest.fixture(scope="module")
def ran(world):
    """kind -> (task, examples, records), each task run once."""
    raw, folder = world
    subject = load_subject("toy", folder, seed=1)
    out = {}
    for kind in KINDS:
        task = task_of(kind)
        examples = task.load(raw)
        out[kind] = task, examples, task.run(subject, examples)
    return out


def test_every_kind_is_run_by_the_harness_under_its_file_name():
    assert list(EvalParams.__dataclass_fields__) == ["bpb", "choice", "cloze", "rules", "continuation"]
    assert sorted(EvalParams.__dataclass_fields__) == KINDS
    assert [task_of(kind).name for kind in KINDS] == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_each_example_has_its_records_in_order(kind, ran):
    _, examples, records = ran[kind]
    samples = SETTINGS[kind].get("samples", 1)
    assert [record["id"] for record in records] == [e.id for e in examples for _ in range(samples)]
    assert [record["kind"] for record in records[::samples]] == [e.kind for e in examples]
    assert len({e.id for e in examples}) == len(examples) > 2
    assert json.loads(json.dumps(records)) == records


@pytest.mark.parametrize("kind", KINDS)
def test_running_again_gives_the_same_records(kind, ran, world):
    task, examples, records = ran[kind]
    assert task.run(load_subject("other name", world[1], seed=1), examples) == records


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_count_examples_and_have_errors(kind, ran):
    task, examples, records = ran[kind]
    results = task.summarise(records)
    assert results
    for metric, kinds in results.items():
        assert kinds["all"].n == len(examples), metric
        if len(kinds) > 1:
            assert sum(e.n for name, e in kinds.items() if name != "all") == len(examples)
        for estimate in kinds.values():
            assert math.isfinite(estimate.value)
            assert estimate.se >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_validation_set_is_an_error_that_names_the_file(kind, tmp_path):
    for name in ("pretrain", "preference", "prompts"):
        write_documents(tmp_path / name / "validation.jsonl", [])
    with pytest.raises(ValueError, match=r"validation.jsonl: empty corpus"):
        task_of(kind).load(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bpb"])
def test_n_examples_spreads_over_the_whole_set(kind, world):
    module = registry.module(FAMILY, kind)
    everything = task_of(kind).load(world[0])
    some = registry.build(module.Config(**{**SETTINGS[kind], "n_examples": 2})).load(world[0])
    assert [example.id for example in some] == [everything[0].id, everything[len(everything) // 2].id]


# ---------------------------------------------------------------- the harness


def test_evaluate_writes_records_and_equal_bytes(world, tmp_path):
    raw, folder = world
    params = from_dict(EvalParams, SETTINGS, "eval")
    metrics = [evaluate("toy", folder, raw, tmp_path / name, params=params, seed=1) for name in ("a", "b")]
    assert metrics[0] == metrics[1]
    assert list(metrics[0]) == ["bpb", "choice", "cloze", "rules", "continuation"]
    for kind in KINDS:
        files = [(tmp_path / name / f"{kind}.jsonl").read_bytes() for name in ("a", "b")]
        assert files[0] == files[1]
        assert len(files[0].splitlines()) > 2
    estimate = metrics[0]["choice"]["accuracy"]["all"]
    assert set(estimate) == {"value", "se", "n"}
    # the replies of the toy were made so that a prompt does not fit: it is cut, and that is counted
    assert metrics[0]["choice"]["n_cut_prompts"] > 0


def test_metrics_hold_no_machine_facts(ran):
    task, _, records = ran["rules"]
    assert set(to_metrics(task, records)) == {"reward", "ended", "n_cut_prompts"}


def test_a_tokenizer_of_another_size_is_refused(world, tmp_path):
    tokenizer = load_tokenizer(world[1] / "tokenizer")
    config = load_subject("toy", world[1], 0).model.config
    save_model(tmp_path / "m", Decoder(config, 299), stage="x", tokenizer=world[1] / "tokenizer")
    with pytest.raises(ValueError, match=f"the model has 299 tokens, its tokenizer {tokenizer.vocab_size}"):
        load_subject("toy", tmp_path / "m", 0)
