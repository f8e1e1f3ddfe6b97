"""rerun: which stages follow from an edit."""

from pathlib import Path

from llm.rerun import SHOWN_FILES, Stage, _short, in_order, mermaid, rerun_table, reruns


def stage(name: str, *, params: str = "", deps: str = "", outs: str = "") -> Stage:
    return Stage(name=name, params=tuple(params.split()), deps=tuple(deps.split()), outs=tuple(outs.split()))


PIPELINE = [
    stage("eval@base", params="eval", deps="models/base llm/eval.py", outs="metrics/eval/base.json"),
    stage("eval@sft", params="eval", deps="models/sft llm/eval.py", outs="metrics/eval/sft.json"),
    stage("download", params="seed download", deps="llm/data.py", outs="data/raw/a"),
    stage(
        "pretrain", params="seed model pretrain", deps="data/raw/a llm/nn/mixers/gqa.py", outs="models/base"
    ),
    stage("sft", params="sft", deps="models/base llm/nn/mixers/gqa.py", outs="models/sft"),
    stage("report", deps="metrics/eval", outs="metrics/report.md"),
]


def test_order_follows_the_files() -> None:
    names = [s.name for s in in_order(PIPELINE)]
    assert names == ["download", "pretrain", "eval@base", "sft", "eval@sft", "report"]


def test_section_and_key_below_it_run_the_same_stages() -> None:
    expected = ["sft", "eval@sft", "report"]
    assert reruns(PIPELINE, "sft") == expected
    assert reruns(PIPELINE, "sft.steps") == expected


def test_keys_match_whole_words_only() -> None:
    """`pre` is no part of `pretrain`, and `sft` the section has nothing to do with models/sft the folder."""
    assert reruns(PIPELINE, "pre") == []


def test_file_runs_its_stages_and_what_follows() -> None:
    assert reruns(PIPELINE, "llm/eval.py") == ["eval@base", "eval@sft", "report"]
    assert reruns(PIPELINE, "llm/nn/mixers/gqa.py") == ["pretrain", "eval@base", "sft", "eval@sft", "report"]


def test_unchosen_variant_runs_nothing() -> None:
    assert reruns(PIPELINE, "llm/nn/mixers/mla.py") == []


def test_all_items_of_a_stage_are_named_once() -> None:
    every = [s.name for s in in_order(PIPELINE)]
    assert _short(["eval@base", "eval@sft", "report"], every) == "eval, report"
    assert _short(["eval@sft", "report"], every) == "eval@sft, report"
    assert (
        _short(["pretrain", "eval@base", "sft", "eval@sft", "report"], every) == "pretrain and all after it"
    )
    assert _short([], every) == "none"
    assert _short(every, every) == "all"


def test_pictures_and_tables_of_the_real_pipeline() -> None:
    """From dvc.yaml itself: the chain is there, arrows that follow from others are not, no row is missing."""
    root = Path(__file__).resolve().parents[2]
    picture = mermaid(root).splitlines()
    assert "    tokenizer --> encode" in picture
    assert "    pretrain --> sft" in picture
    assert "    encode --> sft" not in picture  # encode feeds pack feeds pretrain
    rows = rerun_table(root).splitlines()
    [model] = [row for row in rows if "`model`" in row]
    assert "pretrain and all after it" in model
    assert "| `docs/guide.md` | none |" in rows
    for file in SHOWN_FILES:
        assert (root / file).exists()
