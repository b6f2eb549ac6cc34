"""A run's rows in a tracker are those of metrics.jsonl, over a resume; a tracker that is not there is named at once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fixtures.runs import plain, ranks, run

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]


def test_a_run_and_its_resume_are_one_run_of_the_tracker_with_the_rows_of_the_run(
    recipe_file: RecipeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_part: Callable[[bool, str], None]
) -> None:
    require_part(importlib.util.find_spec("mlflow") is not None, "pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    changes = {"generator_warmup.steps": 2, "generator_warmup.warmup_steps": 1, "schedule.steps": 2}
    path = recipe_file("tracked", **changes, **{"schedule.warmup_steps": 1, "logging.tracker": "mlflow"})
    command = plain("--config", path, "--run_dir", tmp_path / "run")
    for more in ([], ["--schedule.steps", "4", "--resume", "auto"]):
        result = run([*command, *more], tmp_path)
        assert result.returncode == 0, result.stderr
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    experiment = client.get_experiment_by_name("electra-scale")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["corruption.sampler"] == "hp_loss"
    written = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    names = {name for row in written for name in row} - {"step", "phase"}
    assert set(tracked.data.metrics) == names
    for name in names:
        sent = {point.step: point.value for point in client.get_metric_history(tracked.info.run_id, name)}
        rows = [(row["step"], row[name]) for row in written if name in row]
        assert [(step, sent[step] if value is not None else None) for step, value in rows] == rows
        assert len(sent) == len(rows)


def test_a_tracker_that_is_not_installed_is_refused_on_all_ranks_before_the_run_folder_is_touched(
    recipe_file: RecipeFile, tmp_path: Path
) -> None:
    # Whether or not it is installed here.
    (tmp_path / "trackio.py").write_text("raise ImportError('not installed')")
    path = recipe_file("tracked", **{"logging.tracker": "trackio"})
    result = run(ranks(2, "--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("pip install 'electra-scale[trackio]'") == 1
    assert not (tmp_path / "run").exists()
