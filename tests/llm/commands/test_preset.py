"""preset: a copy, byte for byte, and an honest list of what changed."""

from pathlib import Path

import pytest

from llm.commands import preset
from llm.params import read_yaml

OLD = "seed: 1\nmodel:\n  d_model: 64\n  mixer:\n    kind: gqa\n"
NEW = "# a comment\nseed: 1\nmodel:\n  d_model: 128\n  tied_head: true\neval:\n  tasks:\n  - cloze\n"


def write(folder: Path) -> tuple[Path, Path]:
    (folder / "configs").mkdir()
    (folder / "configs" / "big.yaml").write_text(NEW)
    (folder / "params.yaml").write_text(OLD)
    return folder / "configs", folder / "params.yaml"


def test_copies_and_reports(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    lines = preset.apply("big", configs=configs, target=target)
    assert target.read_text() == NEW
    assert lines[0].endswith("is now the preset big; 4 keys changed (old -> new):")
    assert [line.strip() for line in lines[1:]] == [
        "model.d_model: 64 -> 128",
        "model.tied_head: (absent) -> True",
        "eval.tasks: (absent) -> ['cloze']",
        "model.mixer.kind: gqa -> (absent)",
    ]


def test_same_preset_again_changes_nothing(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    preset.apply("big", configs=configs, target=target)
    assert preset.apply("big", configs=configs, target=target)[0].endswith("no key changed")


def test_a_model_is_laid_over_the_keys_that_are_there(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    (configs / "models").mkdir()
    (configs / "models" / "small.yaml").write_text("model:\n  mixer:\n    kind: mamba\n    list: [1, 2]\n")
    target.write_text("# every choice\n# and more\nrate: 1.0e-4\n" + OLD)
    lines = preset.apply("small", configs=configs, target=target)
    assert lines == [
        f"{target} now has the model small; 2 keys changed (old -> new):",
        "  model.mixer.kind: gqa -> mamba",
        "  model.mixer.list: (absent) -> [1, 2]",
    ]
    text = target.read_text()
    assert text.startswith("# every choice\n# and more\nrate: 0.0001\n")
    assert read_yaml(target) == {
        "rate": 1e-4, "seed": 1, "model": {"d_model": 64, "mixer": {"kind": "mamba", "list": [1, 2]}}
    }  # fmt: skip
    assert preset.apply("small", configs=configs, target=target)[0].endswith("no key changed")
    assert target.read_text() == text


def test_a_model_needs_a_file_to_lay_it_over(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    (configs / "models").mkdir()
    (configs / "models" / "small.yaml").write_text("model: {}\n")
    target.unlink()
    with pytest.raises(ValueError, match="no such file"):
        preset.apply("small", configs=configs, target=target)
    assert not target.exists()


def test_first_use_without_params_file(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    target.unlink()
    preset.apply("big", configs=configs, target=target)
    assert target.read_text() == NEW


def test_unknown_name_lists_presets_and_touches_nothing(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    with pytest.raises(ValueError, match="bgi.yaml: no such preset; presets: big"):
        preset.apply("bgi", configs=configs, target=target)
    assert target.read_text() == OLD


def test_broken_preset_touches_nothing(tmp_path: Path) -> None:
    configs, target = write(tmp_path)
    (configs / "big.yaml").write_text("seed: [1\n")
    with pytest.raises(ValueError, match="not readable as YAML"):
        preset.apply("big", configs=configs, target=target)
    assert target.read_text() == OLD
