"""The curve of the search: the numbers in the table, the same bytes each time."""

import csv
from pathlib import Path

import pytest

from llm.data.dedup import exact, minhash, none, simhash
from llm.data.dedup_plots import draw_curves
from llm.data.deduplicate import DedupParams
from llm.data.paragraphs import none as no_paragraphs

OFF = no_paragraphs.Config()
PARAMS = DedupParams(exact=exact.Config(), near=minhash.Config(threshold=0.7), paragraphs=OFF)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scurve.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_table_holds_the_curve(tmp_path: Path) -> None:
    draw_curves(tmp_path / "plots", PARAMS)
    table = rows(tmp_path / "plots")
    assert len(table) == 101
    assert {row["slot"] for row in table} == {"near"}
    for row in table:
        s = float(row["similarity"])
        assert float(row["found"]) == pytest.approx(1 - (1 - s**9) ** 14, abs=1e-5)


def test_equal_parameters_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_curves(tmp_path / name, PARAMS)
    for file in ("scurve.csv", "scurve.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert b"Software" not in (tmp_path / "a" / "scurve.png").read_bytes()
    draw_curves(tmp_path / "c", DedupParams(exact=exact.Config(), near=simhash.Config(), paragraphs=OFF))
    assert (tmp_path / "c" / "scurve.png").read_bytes() != (tmp_path / "a" / "scurve.png").read_bytes()
    assert {row["slot"] for row in rows(tmp_path / "c")} == {"near"}


def test_where_nothing_is_left_to_chance_the_table_is_empty(tmp_path: Path) -> None:
    draw_curves(tmp_path, DedupParams(exact=exact.Config(), near=none.Config(), paragraphs=OFF))
    assert rows(tmp_path) == []
    assert (tmp_path / "scurve.png").stat().st_size > 1000
