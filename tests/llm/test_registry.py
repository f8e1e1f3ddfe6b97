"""The folder is the registry."""

import dataclasses

import pytest

from llm import registry


def test_every_module_of_every_family_has_a_frozen_config_and_a_builder():
    families = registry.families()
    assert "llm.nn.mixers" in families
    for package in families:
        for kind in registry.kinds(package):
            module = registry.module(package, kind)
            assert dataclasses.is_dataclass(module.Config), module.__name__
            assert module.Config.__dataclass_params__.frozen, module.__name__
            assert callable(module.build), module.__name__
            assert module.Config.__module__ == module.__name__


def test_unknown_kind_lists_the_folder():
    with pytest.raises(ValueError, match="llm.nn.position: 'roap' is not one of alibi, .*, none, .*rope"):
        registry.module("llm.nn.position", "roap")
