"""Fine-tuning as processes: one that is killed continues to the same result, and ranks share one batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from electra_scale.cli import main
from tests.support.fixtures.runs import end, plain, ranks, run, start
from tests.support.fixtures.small_encoders import encoder, tasks
from tests.support.waiting import wait_for

__all__ = ["encoder", "tasks"]

PROGRAM = "tests.support.programs.finetune"

pytestmark = pytest.mark.slow


def options(encoder: Path, tasks: Path, out: Path, *more: str) -> list[str]:
    shared = ["finetune", "--model", str(encoder), "--task", "cola", "--data", str(tasks), "--batch", "8"]
    return [*shared, "--out", str(out), *more]


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_a_killed_run_continues_to_the_same_weights_bit_for_bit(
    encoder: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 4 steps an epoch, so that a checkpoint of every tenth step is in the middle of one.
    more = ["--epochs", "30", "--checkpoint-every", "10"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(plain(*options(encoder, tasks, killed, *more), module=PROGRAM), tmp_path)
    try:
        wait_for(lambda: any(killed.glob("seed-0/checkpoint-*/whole")), process)
    finally:
        end(process)
    assert not (killed / "seed-0" / "scores.json").is_file()
    # What a kill in the middle of a save leaves.
    (killed / "seed-0" / "checkpoint-9999").mkdir()
    capsys.readouterr()
    assert main(options(encoder, tasks, killed, *more)) == 0
    assert f"continues from {killed / 'seed-0' / 'checkpoint-'}" in capsys.readouterr().err
    assert main(options(encoder, tasks, whole, *more)) == 0
    assert result(killed) == result(whole)
    one, other = (load_file(out / "best" / "model.safetensors") for out in (killed, whole))
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_two_ranks_train_on_the_same_batches_as_one(encoder: Path, tasks: Path, tmp_path: Path) -> None:
    more = ["--epochs", "3", "--dropout", "0", "--rate", "0.003"]
    both = run(ranks(2, *options(encoder, tasks, tmp_path / "both", *more), module=PROGRAM), tmp_path)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("matthews") == 1
    assert "warn" not in both.stderr.lower(), both.stderr
    assert main(options(encoder, tasks, tmp_path / "alone", *more)) == 0
    assert result(tmp_path / "both")["mean"] == pytest.approx(result(tmp_path / "alone")["mean"])
    weights = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("both", "alone")]
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() < 1e-4, name
