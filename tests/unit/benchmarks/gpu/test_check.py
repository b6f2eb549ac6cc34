"""The run for a GPU: it says what it leaves out and what failed, and keeps what it has found so far."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import check
from benchmarks.gpu.check import Report, arguments, main, run_curves, run_speed


def speed_of(_module: str, given: list[str], *_: object) -> dict[str, Any] | str:
    if "512" in given:
        return "torch.OutOfMemoryError: no room"
    rate = {"median": 1000.0, "least": 900.0, "most": 1200.0, "rounds": [1000.0]}
    return {"rows": 8, "steps": 3, "tokens_per_second": rate, "mfu": 0.25, "peak_tflops": 1.0, "gigabytes": 2.0}


def test_without_a_device_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "gpu")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "gpu").exists()


def test_a_case_that_fails_is_named_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_child", speed_of)
    report = Report(tmp_path)
    run_speed(report, arguments(["--recipes", "small"]), time.monotonic() + 3600)
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [(one["length"], one["sampler"], one["compiled"]) for one in content["speed"]] == [
        (128, "electra", False),
        (128, "electra", True),
        (128, "hp_loss", False),
        (128, "hp_loss", True),
    ]
    assert len(content["failed"]) == 4
    text = (tmp_path / "gpu.md").read_text()
    assert "small, 128, hp_loss, compiled" in text
    assert "FAILED: speed of small, length 512, electra, eager: torch.OutOfMemoryError: no room" in text


def test_cases_for_which_no_time_is_left_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_child", speed_of)
    report = Report(tmp_path)
    run_speed(report, arguments([]), time.monotonic())
    assert report.left_out == ["speed of small, length 128, electra, eager and 15 more: no time is left"]
    assert not report.failed


def test_two_precisions_are_compared_by_their_smoothed_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def curve(_module: str, given: list[str], *_: object) -> dict[str, Any]:
        return {"losses": [0.5] * 30 + [0.5 if given[0] == "fp32" else 0.6] * 10}

    monkeypatch.setattr(check, "_child", curve)
    report = Report(tmp_path)
    run_curves(report, arguments(["--steps", "40"]), time.monotonic() + 60)
    found = report.content["curves"]
    assert found["mean_of_last_quarter"] == {"fp32": pytest.approx(0.5), "bf16": pytest.approx(0.6)}
    assert found["furthest_apart"] == pytest.approx(0.05), "ten of the last twenty steps differ by 0.1"


def test_a_part_that_does_not_end_or_fails_is_told_by_its_last_line() -> None:
    far = time.monotonic() + 60
    program = [sys.executable, "-c", "import sys; print('{}'); sys.exit('out of luck')"]
    result = check._run(program, far)
    assert result is not None
    assert (result.returncode, result.stderr.strip()) == (1, "out of luck")
    assert check._run([sys.executable, "-c", "import time; time.sleep(30)"], time.monotonic()) is None
