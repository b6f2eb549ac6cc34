"""A run's rows reach a tracker under the same names, each step once, and nothing of a tracker ends a run."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.monitor import tracker_libraries
from electra_scale.monitor.trackers import Tracker, check_tracker
from tests.support.waiting import wait_for

ROWS = [(step, {"loss/total": 1 / step, "optim/lr": 1e-3 * step, "eval/a (b)/auc": 0.5}) for step in range(1, 7)]


RequirePart = Callable[[bool, str], None]

WANDB = "pip install wandb"


@pytest.fixture
def mlflow_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_part: RequirePart) -> Path:
    require_part(importlib.util.find_spec("mlflow") is not None, "pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    return tmp_path / "mlruns"


def live(
    folder: Path, kind: str, start: int, end: int, state: str = "stopped", config: dict[str, Any] | None = None
) -> list[str]:
    """One start of a run from step ``start``, which reports each step; its lines for people."""
    folder.mkdir(exist_ok=True)
    lines: list[str] = []
    tracker = Tracker(kind, folder, config or {"optimizer.learning_rate": 0.001}, start, lines.append)
    rows = folder / "metrics.jsonl"
    kept = rows.read_text().splitlines()[:start] if rows.exists() else []
    rows.write_text("".join(f"{line}\n" for line in kept))
    with rows.open("a") as file:
        for step, values in ROWS[start:end]:
            file.write(json.dumps({"step": step, **values}) + "\n")
            tracker.row(step, "generator_warmup" if step < 3 else "joint", values)
    tracker.close(state)
    return lines


def mlflow_runs() -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient()
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def history(run: Any, name: str) -> list[tuple[int, float]]:
    import mlflow

    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]


def test_mlflow_gets_the_rows_and_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path, mlflow_folder: Path) -> None:
    """The second start resumes at step 3, where the first had reported step 4."""
    first = live(tmp_path / "run", "mlflow", 0, 4)
    second = live(tmp_path / "run", "mlflow", 3, 6, "finished", {"optimizer.learning_rate": 0.002, "seed": 1})
    (run,) = mlflow_runs()
    for name in ("loss/total", "optim/lr"):
        assert history(run, name) == [(step, values[name]) for step, values in ROWS]
    assert [step for step, _ in history(run, "eval/a _28_b_29_/auc")] == [1, 2, 3, 4, 5, 6]
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optimizer.learning_rate": "0.001", "seed": "1"}
    assert run.data.tags["changed.optimizer.learning_rate"] == "0.002"
    assert run.data.tags["phase"] == "joint"
    assert [line.split(" file:")[0] for line in (*first, *second)] == [
        "tracker mlflow: begins",
        "tracker mlflow: continues",
    ]
    assert "it has rows up to step 4, so those after step 3 that are made again are not sent again" in second[0]


def test_a_run_that_somebody_has_deleted_in_the_tracker_begins_anew(tmp_path: Path, mlflow_folder: Path) -> None:
    import mlflow

    live(tmp_path / "run", "mlflow", 0, 2)
    mlflow.MlflowClient().delete_run(mlflow_runs()[0].info.run_id)
    assert "begins" in live(tmp_path / "run", "mlflow", 2, 4)[0]
    shutil.rmtree(next(mlflow_folder.glob(f"*/{mlflow_runs()[0].info.run_id}")))
    assert "begins" in live(tmp_path / "run", "mlflow", 4, 6, "failed")[0]
    (run,) = mlflow_runs()
    assert [step for step, _ in history(run, "loss/total")] == [5, 6]
    assert run.info.status == "FAILED"


@pytest.mark.slow
def test_wandb_gets_the_rows_of_both_starts_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], require_part: RequirePart
) -> None:
    require_part(importlib.util.find_spec("wandb") is not None, WANDB)
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    check_tracker("wandb")
    live(tmp_path / "run", "wandb", 0, 4)
    live(tmp_path / "run", "wandb", 3, 6, "finished")
    wandb.teardown()
    assert capfd.readouterr().out == ""
    identity = json.loads((tmp_path / "run/tracker.json").read_text())["runs"]["wandb"]["id"]
    found: list[dict[str, Any]] = []
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in files] == [f"run-{identity}.wandb"] * 2
    for path in files:
        for record in wandb_records(path):
            if record.HasField("history"):
                items = {each.key or "/".join(each.nested_key): each.value_json for each in record.history.item}
                found.append({name: json.loads(value) for name, value in items.items()})
                found[-1]["step"] = record.history.step.num
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for row, (_, values) in zip(found, ROWS, strict=True):
        assert {name: row[name] for name in values} == values
    assert [row["phase"] for row in found] == ["generator_warmup"] * 2 + ["joint"] * 4


def wandb_records(path: Path) -> Iterator[Any]:
    """What wandb has on disk for a run: its records, in a log of LevelDB's form after seven bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if -place % 32768 < 7:
            place += -place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        # A record that ends here, whole or its last part.
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_a_tracker_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracker_libraries.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError) as refusal:
            check_tracker(name)
        assert str(refusal.value) == (
            f"logging.tracker {name} needs {name}, which is not installed: pip install 'electra-scale[{name}]', or set "
            "logging.tracker to null"
        )
    check_tracker(None)


def test_a_tracking_store_that_cannot_be_used_is_refused(
    tmp_path: Path, mlflow_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}")
    with pytest.raises(UserError, match=r"cannot use the tracking store 'file:.*set MLFLOW_TRACKING_URI"):
        check_tracker("mlflow")


@pytest.mark.slow
def test_wandb_needs_an_account_and_asks_no_network_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_part: RequirePart
) -> None:
    require_part(importlib.util.find_spec("wandb") is not None, WANDB)
    import wandb

    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    # Nobody listens there.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    try:
        with pytest.raises(UserError, match=r"wandb has no account to send to .*; run wandb login, or set WANDB_MODE="):
            check_tracker("wandb")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        wandb.teardown()
        check_tracker("wandb")
    finally:
        wandb.teardown()


class Away(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def server_that_is_away() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Away)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_does_not_answer_is_reported_once_and_counted(
    tmp_path: Path, mlflow_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server_that_is_away() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("//", "//somebody:very-secret@"))
        check_tracker("mlflow")
        lines = live(tmp_path / "run", "mlflow", 0, 6)
    assert len(lines) == 2
    assert "very-secret" not in "".join(lines)
    assert lines[0].startswith("warning: tracker mlflow: its run could not be opened (")
    assert "training goes on" in lines[0]
    assert lines[1].startswith("tracker mlflow: 6 rows not sent, the first of step 1; metrics.jsonl")


def test_a_tracker_that_fails_on_the_way_is_reported_once_and_gets_the_later_rows(
    tmp_path: Path, mlflow_folder: Path
) -> None:
    """The folder is looked at only while nobody writes: MLflow cannot read a file that is just being begun."""
    before = Tracker("mlflow", tmp_path, {}, 0, [].append)
    before.row(1, "joint", {"loss/total": 1.0})
    before.close("stopped")
    lines: list[str] = []
    tracker = Tracker("mlflow", tmp_path, {}, 1, lines.append)
    wait_for(lambda: bool(lines))
    mlflow_folder.rename(tmp_path / "away")
    for step in (2, 3):
        tracker.row(step, "joint", {"loss/total": 1 / step})
    wait_for(lambda: len(tracker._lost) == 2)
    shutil.rmtree(mlflow_folder, ignore_errors=True)
    (tmp_path / "away").rename(mlflow_folder)
    tracker.row(4, "joint", {"loss/total": 0.25})
    tracker.close("finished")
    assert [line[:42] for line in lines[1:]] == [
        "warning: tracker mlflow: the row of step 2",
        "tracker mlflow: 2 rows not sent, the first",
    ]
    assert [step for step, _ in history(mlflow_runs()[0], "loss/total")] == [1, 4]


def test_a_damaged_record_or_values_that_are_not_finite_stop_nothing(tmp_path: Path, mlflow_folder: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tracker.json").write_text("{")
    lines: list[str] = []
    tracker = Tracker("mlflow", folder, {}, 0, lines.append)
    tracker.row(1, "joint", {"loss/total": math.nan})
    tracker.close("finished")
    assert "remove it to begin a new run" in lines[0]
    (folder / "tracker.json").unlink()
    tracker = Tracker("mlflow", folder, {}, 0, lines.append)
    tracker.row(1, "joint", {"loss/total": math.nan, "optim/lr": math.inf})
    tracker.close("finished")
    (run,) = mlflow_runs()
    assert math.isnan(history(run, "loss/total")[0][1])
    assert history(run, "optim/lr")[0][1] == math.inf
