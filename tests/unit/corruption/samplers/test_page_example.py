"""The new sampler that CONTRIBUTING.md shows, and the tests it shows for it, run as they stand on the page."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[4] / "CONTRIBUTING.md"
MODULE = "electra_scale.corruption.samplers.rarer_original"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def executed(name: str, code: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(code, f"{PAGE.name}:{name}", "exec"), module.__dict__)
    return module


def test_the_sampler_of_the_page_passes_the_tests_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, tests = blocks()
    monkeypatch.setitem(sys.modules, MODULE, executed(MODULE, sampler))
    names = vars(executed("test_rarer_original", tests))
    promises = [names[name] for name in names if name.startswith("test_")]
    assert len(promises) == 2
    for promise in promises:
        promise()


def test_the_sampler_of_the_page_has_about_30_lines_of_code() -> None:
    code = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(code) <= 30
