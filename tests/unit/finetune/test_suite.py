"""A suite's file means what the same words on the command line mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.finetune.suite import read_suite


@pytest.mark.parametrize(("written", "read"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("5", 5.0), ("5E+0", 5.0)])
@pytest.mark.parametrize("key", ["rate", "epochs", "decay"])
def test_a_number_may_be_written_without_a_point(tmp_path: Path, key: str, written: str, read: float) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(f"tasks: [{{task: mrpc, {key}: {written}}}]")
    _, (entry,) = read_suite(str(path))
    assert getattr(entry, key) == read


@pytest.mark.parametrize("written", ["fast", "true", "[1e-3]", "''"])
def test_what_is_no_number_is_refused_with_its_place(tmp_path: Path, written: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(f"tasks: [cola, {{task: mrpc, rate: {written}}}]")
    with pytest.raises(UserError, match=r"tasks\[1\]\.rate is .*; it must be of type float"):
        read_suite(str(path))
