"""dvc.yaml, params.yaml, the stage scripts and the modules they import agree."""

import dataclasses
import importlib
import itertools
from pathlib import Path, PurePath

import closure
import pytest
import yaml
from dvc.repo import Repo

from llm import registry
from llm.compress.quantize import load_method
from llm.params import load_params, read_yaml

ROOT = closure.ROOT
PRESETS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
RAW = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def body(stage: str) -> dict:
    return RAW[stage].get("do", RAW[stage])


@pytest.fixture(scope="module")
def stages():
    with Repo(str(ROOT)) as repo:
        return list(repo.index.stages)


def test_stages_stand_in_pipeline_order_and_each_has_its_script():
    assert tuple(RAW) == closure.STAGES
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(closure.STAGES)


@pytest.mark.parametrize("stage", closure.STAGES)
def test_code_deps_are_what_the_stage_imports_for_the_chosen_kinds(stage):
    templates, files = closure.stage_deps(stage, read_yaml(ROOT / "params.yaml"))
    declared = {
        dep
        for dep in body(stage)["deps"]
        if dep.startswith(("llm/", "stages/")) and (dep.endswith(".py") or dep in closure.FOLDERS)
    }
    hint = f"run: python tests/pipeline/closure.py {stage}"
    assert declared == templates | files, hint


@pytest.mark.parametrize("stage", closure.STAGES)
def test_params_listed_are_the_sections_the_script_reads(stage):
    script = importlib.import_module(f"stages.{stage}")
    fields = (
        {field.name for field in dataclasses.fields(script.Params)} if hasattr(script, "Params") else set()
    )
    listed = {key.split(".")[0] for key in body(stage).get("params", [])}
    assert listed == fields


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", closure.STAGES)
def test_every_preset_loads_for_every_stage(stage, preset):
    script = importlib.import_module(f"stages.{stage}")
    path = ROOT / "configs" / f"{preset}.yaml"
    if stage == "quantize":
        for method in read_yaml(path)["quantize"]["methods"]:
            loaded, config = load_method(script.Params, method, path)
            assert method in loaded.quantize.methods
            assert registry.kind_of(config) == method
    elif hasattr(script, "Params"):
        assert dataclasses.is_dataclass(load_params(script.Params, path))
    else:
        assert "params" not in body(stage)


def test_every_section_of_params_yaml_is_read_by_a_stage_or_the_tracker():
    known = {key.split(".")[0] for stage in RAW for key in body(stage).get("params", [])}
    assert set(read_yaml(ROOT / "params.yaml")) == known | {"track"}


def test_params_yaml_is_the_cpu_preset():
    assert (ROOT / "params.yaml").read_text() == (ROOT / "configs" / "cpu.yaml").read_text()


def test_params_yaml_keeps_block_style():
    """`dvc exp run -S` rewrites flow style, which would show as a diff nobody made."""
    for path in [ROOT / "params.yaml", *(ROOT / "configs").glob("*.yaml")]:
        events = list(yaml.parse(path.read_text()))
        for event, following in itertools.pairwise(events):
            if getattr(event, "flow_style", False) and "Start" in type(event).__name__:
                empty = isinstance(following, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
                assert empty, f"{path}:{event.start_mark.line + 1}"


def test_no_dep_is_the_parent_of_an_out(stages):
    """In a fresh clone such a folder exists without its data, and DVC would run on nothing."""
    outs = {out.fs_path for stage in stages for out in stage.outs}
    bad = [
        (stage.addressing, dep.fs_path)
        for stage in stages
        for dep in stage.deps
        if any(o != dep.fs_path and PurePath(dep.fs_path) in PurePath(o).parents for o in outs)
    ]
    assert bad == []


def test_every_stage_can_use_the_run_cache(stages):
    for stage in stages:
        assert stage.deps, stage.addressing
        assert stage.outs, stage.addressing
        assert not stage.always_changed, stage.addressing
        assert not any(out.persist for out in stage.outs), stage.addressing


def test_machine_facts_are_not_part_of_a_stage(stages):
    for stage in stages:
        for word in ("worker", "thread", "nproc", "device", "cuda", "track"):
            assert word not in stage.cmd, stage.addressing
        listed = [key for dep in stage.deps for key in getattr(dep, "params", [])]
        assert not any(key.split(".")[0] == "track" for key in listed), stage.addressing


def test_a_variant_that_is_not_chosen_is_no_dep(stages):
    params = read_yaml(ROOT / "params.yaml")
    for stage in stages:
        name = stage.addressing.split("@")[0]
        item = stage.addressing.partition("@")[2]
        _, always = closure.stage_deps(name, params)  # modules a stage imports whatever is chosen
        chosen = {closure.lookup(params, f"{key}.kind") for key in closure.stage_slots(name)} | {item}
        for dep in stage.deps:
            path = Path(dep.fs_path)
            if path.suffix != ".py" or path.relative_to(ROOT).as_posix() in always:
                continue
            package = ".".join(path.relative_to(ROOT).parent.parts)
            if package in registry.families() and path.stem in registry.kinds(package):
                assert path.stem in chosen, (stage.addressing, path)
