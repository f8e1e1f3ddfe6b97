"""catalogue: read from the files, so it is true whatever is added."""

from pathlib import Path

import pytest

from llm import registry
from llm.commands import catalogue


def test_every_kind_is_listed_with_its_file_and_source() -> None:
    text = catalogue.list_kinds("mixers")
    assert "llm/nn/mixers/gqa.py" in text
    assert "arXiv 2305.13245 (GQA)" in text
    assert "base" not in [line.split()[0] for line in text.splitlines() if line and not line.startswith(" ")]


def test_every_family_is_listed_with_its_kinds() -> None:
    lines = catalogue.list_families().splitlines()
    assert len([line for line in lines if line]) == len(registry.families()) + 2  # head and hint
    [position] = [line for line in lines if line.startswith("position ")]
    assert "alibi, learned" in position
    assert "interface of a position encoding" in position


@pytest.mark.parametrize("name", ["mixers", "nn.mixers", "llm.nn.mixers", "nn/mixers/"])
def test_any_tail_names_a_family(name: str) -> None:
    assert catalogue.find_family(name) == "llm.nn.mixers"


def test_short_names_find_their_family_again() -> None:
    for package in registry.families():
        assert catalogue.find_family(catalogue.short_name(package)) == package


def test_unknown_family_lists_and_hints() -> None:
    with pytest.raises(ValueError, match=r"no family 'mixer'; did you mean 'mixers'\?; families: .*position"):
        catalogue.find_family("mixer")


def test_source_may_take_several_lines() -> None:
    text = "X: y.\n\nEquations   (1)\nSource      A 2020,\n            arXiv 1; B 2021\nCost        O(1)\n"
    assert catalogue.source_of(text) == "A 2020, arXiv 1; B 2021"
    assert catalogue.source_of("X: y.") == ""


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    for name in ("nn/mixers/gqa", "nn/mixers/base", "nn/norm/base", "stages/pack", "data/pack"):
        path = tmp_path / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return tmp_path


@pytest.mark.parametrize("name", ["gqa", "mixers/gqa", "llm/nn/mixers/gqa.py", "docs/nn/mixers/gqa.md"])
def test_explain_finds_a_page(pages: Path, name: str) -> None:
    assert catalogue.explain(name, pages) == "# nn/mixers/gqa"


def test_explain_lists_options_when_ambiguous(pages: Path) -> None:
    with pytest.raises(
        ValueError, match="'pack' could be any of data/pack, stages/pack; .*llm explain data/pack"
    ):
        catalogue.explain("pack", pages)
    assert catalogue.explain("stages/pack", pages) == "# stages/pack"


def test_explain_hints(pages: Path) -> None:
    with pytest.raises(ValueError, match=r"no page 'gqaa'; did you mean 'gqa'\?"):
        catalogue.explain("gqaa", pages)
