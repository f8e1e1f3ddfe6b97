"""The report card: what is there is shown, what is not is a dash, and nothing else."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm.cli import app
from llm.report import charts
from llm.report.card import write_card
from llm.report.collect import Report, chosen_methods, collect, read_curve
from llm.report.corpus import corpus_table
from llm.report.markdown import summary, to_markdown
from llm.report.page import clock, stage_order, to_html
from llm.report.tables import Score, count, funnel_steps, model_rows, models_table, scored, short, signed
from stages.report import main as stage_main


def table_rows(markdown: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of every table."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line[:1] == "|"
    ]
    return {row[0]: row[1:] for row in rows}


def test_models_stand_side_by_side_with_errors(tree: Path) -> None:
    rows = table_rows(to_markdown(collect(tree)))
    assert rows["bits per byte, held-out text ↓"] == [
        "180",
        "1.497 ± 0.008",
        "1.485 ± 0.008",
        "1.475 ± 0.008",
    ]
    assert rows["· hard"] == ["400", "0.550 ± 0.010", "0.610 ± 0.010", "0.660 ± 0.010"]
    assert rows["story continuation, BLEU ↑"] == ["1", "1.200", "1.260", "1.310"]  # one example: no error


def test_kinds_are_shown_only_where_they_say_more_than_all(tree: Path) -> None:
    labels = [row.label for row in model_rows(collect(tree)) if row.level == 1]
    assert labels == ["chat", "tales", "easy", "hard", "story", "cloze", "sums", "words"]


def test_metric_nobody_told_the_report_about_is_shown_by_its_own_name(tree: Path) -> None:
    file = tree / "metrics" / "eval" / "sft.json"
    file.write_text('{"needle": {"found": {"all": {"value": 0.5, "se": 0.1, "n": 9}}}}')
    rows = table_rows(to_markdown(collect(tree)))
    assert rows["needle: found"] == ["9", "—", "0.500 ± 0.100", "—"]


def test_quantized_only_what_params_ask_for(tree: Path) -> None:
    report = collect(tree)
    assert list(report.quantized) == ["rtn_int8", "gptq_int4"]
    rows = table_rows(to_markdown(report))
    assert rows["rtn_int8"] == ["8.25", "4.33 MB", "3.88", "1.475 → 1.478", "+0.21 ± 0.05", "0.080"]
    assert "removed" not in rows


def test_shortened_prompts_are_told(tree: Path) -> None:
    assert "Prompts that lost their beginning for lack of room: cloze 3." in to_markdown(collect(tree))


def test_stage_and_command_write_the_same_two_files(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setattr("sys.argv", ["report", "--out", "metrics/report.md", "--html", "report/index.html"])
    stage_main()
    first = [(tree / name).read_bytes() for name in ("metrics/report.md", "report/index.html")]
    result = CliRunner().invoke(app, ["report", "--summary"])
    assert result.exit_code == 0
    assert [(tree / name).read_bytes() for name in ("metrics/report.md", "report/index.html")] == first
    assert result.stdout.startswith("## Models\n")
    assert result.stdout.endswith("metrics/report.md\nreport/index.html\n")


def test_funnel_adds_up(tree: Path) -> None:
    steps = funnel_steps(collect(tree))
    assert steps[0][:2] == ("downloaded", 3450)
    assert [label for label, _, _, level in steps if level] == ["downloaded", "after dedup", "after filter"]
    assert steps[0][1] - sum(docs for _, docs, _, level in steps if not level) == steps[-1][1]
    reasons = [label for label, _, _, level in steps if not level and label.startswith("filter")]
    assert reasons == ["filter: hard_words", "filter: profanity", "filter: too_short", "filter: html"]


def test_training_table(tree: Path) -> None:
    rows = table_rows(to_markdown(collect(tree)))
    assert rows["pretraining FLOPs"] == ["94.4 T"]  # 31,457,280 a token x 3,000,000 tokens
    assert rows["pretraining tokens"] == ["3 M (0.94 epochs)"]
    assert rows["reward model, accuracy on held-out pairs"] == ["0.702 ± 0.020"]
    assert rows["dpo, held-out accuracy"] == ["0.500 → 0.680 (gain +0.180 ± 0.021)"]


def test_missing_metrics_are_dashes_not_numbers(tree: Path) -> None:
    for name in (
        "eval/base",
        "eval/aligned",
        "pretrain",
        "sft",
        "reward",
        "align",
        "dedup",
        "filter",
        "tokenizer",
        "analyze",
    ):
        (tree / "metrics" / f"{name}.json").unlink()
    for folder in (tree / ".work" / "facts", tree / "plots", tree / "data" / "records"):
        subprocess.run(["rm", "-r", str(folder)], check=True)
    (tree / "dvc.lock").unlink()
    report = collect(tree)
    rows = table_rows(to_markdown(report))
    assert rows["bits per byte, held-out text ↓"] == ["180", "—", "1.485 ± 0.008", "—"]
    assert not {"## Training", "## Data"} & set(to_markdown(report).splitlines())
    page = to_html(report)
    assert '<div class="tile"><b>—</b><span>parameters</span></div>' in page
    assert "Learning curves" not in page
    assert 'id="corpus"' not in page


def test_no_evaluated_model_is_an_error_not_an_empty_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model has been evaluated; run: dvc repro"):
        write_card(collect(tmp_path), markdown=tmp_path / "r.md", html=tmp_path / "r.html")
    assert not (tmp_path / "r.md").exists()


def test_damaged_metrics_are_named(tree: Path) -> None:
    (tree / "metrics" / "sft.json").write_text("{")
    with pytest.raises(ValueError, match="sft.json: damaged JSON"):
        collect(tree)
    (tree / "metrics" / "sft.json").write_text("{}")
    (tree / "plots" / "sft.csv").write_text("step,loss\n1,abc\n")
    with pytest.raises(ValueError, match="sft.csv: not a table of numbers"):
        collect(tree)


def test_markdown_is_deterministic_and_free_of_machine_facts(tree: Path) -> None:
    before = to_markdown(collect(tree))
    (tree / ".work" / "facts" / "pretrain.json").write_text('{"seconds": 1.0, "tokens_per_s": 5.0}')
    (tree / "dvc.lock").unlink()
    assert to_markdown(collect(tree)) == before
    assert "11,034" not in before
    assert before.endswith("|\n")


def test_changes_are_paired(tree: Path) -> None:
    """Four examples, of which one is missing in one model: differences 1, 0, 1 have mean 2/3 and error 1/3."""
    for model, values in (("base", [0, 1, 0, 1]), ("sft", [1, 1, 1])):
        file = tree / "data" / "records" / model / "choice.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            "".join(
                json.dumps({"id": str(i), "kind": "easy", "scores": {"accuracy": value}}) + "\n"
                for i, value in enumerate(values)
            )
        )
    (tree / "data" / "records" / "aligned" / "choice.jsonl").unlink(missing_ok=True)
    report = collect(tree)
    assert table_rows(to_markdown(report))["next-reply choice, accuracy"] == ["3", "+0.667 ± 0.333", "—"]
    assert "+0.667 ± 0.333" in to_html(report)


def test_summary_is_the_first_three_tables(tree: Path) -> None:
    text = summary(collect(tree))
    assert to_markdown(collect(tree)).startswith(f"# Report\n\n{text}")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Models", "Changes", "Quantized"]


class Page(HTMLParser):
    """Collects tags that never close, addresses, ids and text."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"line", "circle", "polyline"}  # in SVG a tag may close itself

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_is_whole_and_needs_nothing_else(tree: Path) -> None:
    page = Page(to_html(collect(tree)))
    assert page.open == []
    assert [
        address for address in page.addresses if not address.startswith(("#", "data:image/png;base64,"))
    ] == []
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(page.ids)
    assert "<script" not in to_html(collect(tree))


def test_page_shows_machine_facts_samples_and_origin(tree: Path) -> None:
    text = " ".join(Page(to_html(collect(tree))).words)
    assert "4 min 47 s" in text  # pretrain took 287.4 s
    assert "tokens per s 11 k" in text
    assert "Write a short story with the words fox, river & <moon>. (words 0)" in text
    assert "aligned says: the fox ran to the river 0." in text
    assert "the real text" in text
    assert "0123abcd" in text
    assert "812" in text  # decoding speed of the quantized model


def test_corpus_table_shows_what_cleaning_changed(tree: Path) -> None:
    table = corpus_table(collect(tree))
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.head == ["", "chat", "poetry", "all"]
    assert rows["documents"] == ["90 → 80", "10", "100"]
    assert rows["text"] == ["9 kB → 8 kB", "3 kB", "12 kB"]
    assert rows["Heaps β"] == ["— → 0.50", "—", "—"]
    assert rows["repeated 3-grams"] == ["2.12 %"] * 3
    assert "repeated 10-grams" not in rows  # nobody has the number


def test_page_shows_the_corpus(tree: Path) -> None:
    html = to_html(collect(tree))
    text = " ".join(Page(html).words)
    assert "Chinese characters 25.0 %" in text
    assert "other scripts" not in text
    assert html.index("filter: swearing") < html.index("filter: too short")  # most documents first
    assert "4 chat, 4 poetry; 960 B" in text
    assert "A: hi & <EMAIL>" in text
    assert "c/1; score 2, slot quality" in text
    assert "of the" in text
    assert "20" in text
    assert "+ 3" in text
    assert html.count("<details open>") == 1
    assert 'style="width:50.0%"></i><span>&lt;b&gt;</span>' in html


def test_pictures_stand_in_a_fixed_order_and_unknown_ones_last(tree: Path) -> None:
    for name in ("reasons", "heaps", "brand_new"):
        (tree / "plots" / "analyze" / f"{name}.png").write_bytes(b"x")
    alts = re.findall(r'<img alt="([^"]*)"', to_html(collect(tree)))
    assert alts == [
        "Word frequency over rank",
        "Distinct words over words read",
        "Dropped documents by reason",
        "brand_new",
    ]


def test_samples_are_the_same_prompts_for_every_model(tree: Path) -> None:
    samples = collect(tree).samples
    assert [(s.task, s.kind) for s in samples] == [
        ("rules", k) for k in ("words", "words", "sums", "sums")
    ] + [("continuation", "tales")]
    assert all(set(sample.answers) == {"base", "sft", "aligned"} for sample in samples)
    assert samples[0].scores == {"base": 0.25, "sft": 0.49, "aligned": 0.69}


def test_revision_tells_of_uncommitted_changes(tree: Path) -> None:
    git = ["git", "-C", str(tree), "-c", "user.name=t", "-c", "user.email=t@t"]
    assert collect(tree).revision == ""
    for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    assert collect(tree).revision.endswith("with uncommitted changes")
    (tree / ".gitignore").write_text("*\n")
    assert re.fullmatch("[0-9a-f]{40}", collect(tree).revision)


def test_facts_are_read_from_the_work_folder_of_the_environment(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_WORK_DIR", str(tree / "elsewhere"))
    assert collect(tree).facts == {}


def test_chosen_methods_without_params(tmp_path: Path) -> None:
    assert chosen_methods(tmp_path) == []


def test_empty_cells_of_a_curve_are_gaps(tree: Path) -> None:
    rows = read_curve(tree / "plots" / "pretrain.csv")
    assert rows[0]["val_bpb"] is None
    assert rows[9]["val_bpb"] == pytest.approx(1.9346, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0, "0"), (999, "999"), (4_213_760, "4.21 M"), (94.4e12, "94.4 T"), (2.5e9, "2.5 G")],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


def test_numbers_as_text() -> None:
    assert count(None) == "—"
    assert scored(None) == "—"
    assert scored(Score(value=12.3456, se=0.5, n=3)) == "12.35 ± 0.50"
    assert signed(-0.001, 0.004, 2) == "0.00 ± 0.00"
    assert signed(-0.21, None, 2) == "-0.21"
    assert clock(None) == "—"
    assert clock(59.94) == "59.9 s"
    assert clock(3725) == "62 min 05 s"


def test_stages_in_pipeline_order() -> None:
    assert sorted(["zz", "eval@base", "download", "pack@sft", "pretrain"], key=stage_order) == [
        "download",
        "pack@sft",
        "pretrain",
        "eval@base",
        "zz",
    ]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.41, 1.66), (-3e-5, 2e-4), (5.0, 5.0), (0, 123_456)])
def test_ticks_cover_the_range_with_few_round_numbers(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


def test_curve_needs_two_points() -> None:
    assert charts.curve("loss", [(1, 2.0)]) == ""
    assert charts.curve("loss", [(1, 2.0), (2, float("nan"))]) == ""
    assert "<polyline" in charts.curve("loss", [(1, 2.0), (2, 1.0)])


def test_whiskers_keep_the_order_of_values(tree: Path) -> None:
    row = model_rows(collect(tree))[0]
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', charts.whiskers(row))]
    assert places == sorted(places, reverse=True)  # bits per byte fall from base to aligned
    assert len(places) == 3


def test_models_table_of_nothing_is_empty() -> None:
    empty = Report(
        metrics={},
        evals={},
        scores={},
        quantized={},
        curves={},
        samples=[],
        pictures={},
        facts={},
        artifacts=[],
        revision="",
    )
    assert models_table(empty).rows == []
    assert "No results yet" in to_html(empty)
