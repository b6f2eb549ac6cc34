"""Small encoders and tasks for the tests of fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_scale.cli import main
from tests.support.fixtures.small_encoders import encoder, tasks

__all__ = ["encoder", "finetune", "refusal", "tasks"]


@pytest.fixture
def finetune(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run ``electra-scale finetune`` in this process, and read the result that it leaves."""

    def run(*arguments: str | Path, out: str = "out") -> dict[str, Any]:
        assert main(["finetune", *map(str, arguments), "--out", str(tmp_path / out)]) == 0
        found: dict[str, Any] = json.loads((tmp_path / out / "result.json").read_text())
        return found

    return run


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line by which ``electra-scale finetune`` refuses its arguments, before it has trained anything."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        code = main(["finetune", *map(str, arguments), "--out", str(tmp_path / "refused")])
        line = capsys.readouterr().err
        assert code == 2, line
        assert line.startswith("electra-scale: error: ")
        assert line.count("\n") == 1, line
        assert not list(tmp_path.glob("refused/seed-*"))
        return line

    return run
