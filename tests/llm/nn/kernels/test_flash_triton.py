"""What can be said of the Triton kernels where triton is not installed: that it says so.

The kernels themselves are under tests/interpreted, run by `make test-triton` in an environment with triton.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from llm.nn.kernels.attention import attend

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def no_triton(monkeypatch):
    """As in an environment without it, also where torch brought it along."""
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "llm.nn.kernels.flash_triton", raising=False)


def test_the_module_says_what_is_missing_and_how_to_test_it():
    with pytest.raises(ModuleNotFoundError, match="triton is not installed; .* make test-triton"):
        importlib.import_module("llm.nn.kernels.flash_triton")


def test_by_name_it_says_the_same(monkeypatch):
    monkeypatch.setenv("LLM_ATTENTION", "triton")
    q = torch.zeros(1, 1, 4, 16)
    with pytest.raises(
        ValueError, match="LLM_ATTENTION: 'triton' needs triton, which is not installed; use auto or flash"
    ):
        attend(q, q, q, mask=None, bias_NTS=None)


def test_nothing_imports_it_on_the_way():
    """A plain `import llm.nn...` must never need triton: every import of the module is inside a function."""
    for path in (ROOT / "llm").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom | ast.Import):
                assert "flash_triton" not in ast.unparse(node), path


def test_its_own_checks_are_not_collected_here_and_the_page_says_how_to_run_them():
    checks = sorted(path.name for path in (ROOT / "tests" / "interpreted").glob("*.py"))
    assert checks == ["check_compile.py", "check_numbers.py"]
    page = (ROOT / "docs/nn/kernels/flash_triton.md").read_text(encoding="utf-8")
    for name in checks:
        assert re.search(rf"-m pytest tests/interpreted/{name}", page)
