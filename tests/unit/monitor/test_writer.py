"""What a run reports: the same values in both places, each step once, and lines that a log can hold."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import pty
import resource
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline.errors import UserError
from electra_scale.monitor import writer as writer_module
from electra_scale.monitor.progress import Progress
from electra_scale.monitor.writer import RunWriter, keep_rows


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    made = RunWriter(tmp_path / "run", 0)
    yield made
    made.close()


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def board(folder: Path) -> dict[str, list[tuple[int, float]]]:
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def live(folder: Path, from_step: int, steps: range, offset: float = 0.0) -> None:
    """One start of a run, which reports each step."""
    written = RunWriter(folder, from_step)
    for step in steps:
        written.metrics(step, "joint", {"loss/total": step + offset, "optim/lr": 1 / step})
    written.close()


def test_both_places_hold_the_same_values(tmp_path: Path) -> None:
    live(tmp_path, 0, range(1, 6))
    found, shown = rows(tmp_path), board(tmp_path)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5]
    assert all(row["phase"] == "joint" for row in found)
    assert set(shown) == {"loss/total", "optim/lr"}
    for tag, points in shown.items():
        assert [step for step, _ in points] == [row["step"] for row in found]
        assert [value for _, value in points] == pytest.approx([row[tag] for row in found])


@pytest.mark.parametrize("from_step", [3, 0])
def test_a_run_that_resumes_has_each_step_once(tmp_path: Path, from_step: int) -> None:
    """Also when the first start ended before its first checkpoint."""
    live(tmp_path, 0, range(1, 6))
    live(tmp_path, from_step, range(from_step + 1, 9), offset=100)
    expected = [(step, step if step <= from_step else step + 100) for step in range(1, 9)]
    assert [(row["step"], row["loss/total"]) for row in rows(tmp_path)] == expected
    assert board(tmp_path)["loss/total"] == expected


def test_a_value_that_is_not_finite_is_visible_as_null(tmp_path: Path) -> None:
    written = RunWriter(tmp_path, 0)
    written.metrics(1, "joint", {"disc/auc": math.nan, "loss/total": math.inf, "optim/lr": 0.5})
    written.close()
    assert rows(tmp_path) == [{"step": 1, "phase": "joint", "disc/auc": None, "loss/total": None, "optim/lr": 0.5}]


@contextmanager
def no_space(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_ends_the_run_with_a_row_and_not_with_a_line_or_at_the_end(tmp_path: Path) -> None:
    """The error that a run ends with is the first one, and it says what to do."""
    written = RunWriter(tmp_path, 0)
    with no_space(400):
        written.line("x" * 500)
        for step in range(1, 4):
            written.metrics(step, "joint", {"loss/total": step})
        too_much = {f"loss/part_{number}": 1.0 for number in range(30)}
        with pytest.raises(UserError, match=rf"cannot write {tmp_path}/metrics.jsonl \(.*\); free some space"):
            written.metrics(4, "joint", too_much)
        with pytest.raises(UserError, match="free some space"):
            written.flush()
        written.close()
    live(tmp_path, 3, range(4, 6))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_at_the_start_is_reported_in_one_line(tmp_path: Path) -> None:
    with no_space(4), pytest.raises(UserError, match=rf"cannot write {tmp_path} \(.*\); free some space"):
        RunWriter(tmp_path, 0)


def test_rows_are_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    written = RunWriter(tmp_path, 0)
    written.metrics(1, "joint", {"loss/total": 1.0})
    written.flush()
    assert len(rows(tmp_path)) == 1
    assert board(tmp_path)["loss/total"] == [(1, 1.0)]
    written.close()


def test_later_rows_and_a_row_cut_short_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "x": step / 10}) + "\n" for step in range(1, 6)]
    for cut in range(1, len(lines[-1]) - 1):
        path.write_text("".join(lines)[: -cut - 1])
        keep_rows(path, 10)
        assert path.read_text() == "".join(lines[:-1])
    path.write_text("".join(lines))
    keep_rows(path, 3)
    assert path.read_text() == "".join(lines[:3])
    keep_rows(path, 0)
    assert path.read_text() == ""


def test_a_last_row_without_its_line_end_is_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    keep_rows(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_lines_that_are_no_rows_are_left_out_counted_and_reported(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "run/metrics.jsonl"
    rubbish = [b"null", b"7", b"[1]", b"{}", b'{"step": "1"}', b"\xff\xfe", b"[" * 9999]
    path.write_bytes(b"\n".join([b'{"step": 1}', *rubbish, b'{"step": 2}', b'{"st']))
    assert keep_rows(path, 9) == len(rubbish)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_bytes(b'7\n{"step": 1}\n')
    RunWriter(tmp_path / "run", 9).close()
    assert "left out of metrics.jsonl 1 line that cannot be read" in (tmp_path / "run/log.txt").read_text()


def test_no_file_is_no_trouble(tmp_path: Path) -> None:
    keep_rows(tmp_path / "metrics.jsonl", 3)
    assert not list(tmp_path.iterdir())


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(writer_module.time, "monotonic", lambda: self.now)


VALUES = {"loss/generator": 6.51234, "loss/discriminator": 0.43217, "disc/auc": 0.61234, "optim/lr": 1e-3}


def test_off_a_terminal_a_line_comes_now_and_then(
    tmp_path: Path, writer: RunWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress(100, 0, writer)
    for step in range(1, 31):
        clock.now += 1
        progress.advance(step)
        progress.report("joint", VALUES)
    progress.close()
    writer.flush()
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert printed.err == ""
    line = printed.out.splitlines()[0]
    assert "joint step 1/100" in line
    assert "generator 6.512" in line
    assert "discriminator 0.4322" in line
    assert "auc 0.612" in line
    # After one step there is no rate yet; after eleven, 89 steps of a second each are left.
    assert "left" not in line
    assert "left 1:29" in printed.out.splitlines()[1]
    # The log file has every report, with the time.
    logged = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert len(logged) == 30
    assert logged[0].endswith(line)


def test_the_first_line_comes_at_once_on_a_machine_that_has_just_started(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    clock.now = 2.0
    progress = Progress(100, 0, writer)
    progress.advance(1)
    progress.report("joint", VALUES)
    assert "step 1/100" in capsys.readouterr().out
    progress.close()


def test_time_left_counts_from_the_first_step_of_this_start(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress(10_000, 9_000, writer)
    # Compiling, say, which is over with the first step.
    clock.now += 500
    progress.advance(9_001)
    clock.now += 36
    progress.advance(9_011)
    progress.report("joint", VALUES)
    # 989 steps of 3.6 seconds.
    assert "left 59:20" in capsys.readouterr().out
    progress.close()


@contextmanager
def terminal(rows: int, columns: int) -> Iterator[tuple[TextIO, int]]:
    """A terminal of a size to write to, and the number of the file by which its other end is read."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(theirs, "w") as file:
        yield file, ours
    os.close(ours)


def all_of(terminal: int) -> str:
    """What was written to a terminal whose end is closed: the system hands it on in pieces, in its own time."""
    pieces = []
    # Linux reports the end of a terminal as an error.
    with suppress(OSError):
        while piece := os.read(terminal, 1 << 16):
            pieces.append(piece)
    return b"".join(pieces).decode()


@pytest.mark.parametrize(("rows", "columns"), [(24, 120), (0, 0)])
def test_in_a_terminal_there_is_a_bar_with_rate_and_time_left_if_there_is_room(
    rows: int, columns: int, writer: RunWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal(rows, columns) as (file, other_end):
        monkeypatch.setattr("sys.stderr", file)
        progress = Progress(100, 40, writer)
        progress.advance(50)
        progress.report("joint", VALUES)
        progress.log("held-out at step 50")
        progress.close()
        file.close()
        shown = all_of(other_end)
        printed = capsys.readouterr().out
    assert "held-out at step 50" in shown + printed
    assert ("50/100" in shown) == (columns > 0)
    assert ("joint step 50/100" in printed) == (columns == 0)
    if columns:
        assert "step/s" in shown or "s/step" in shown
        assert "generator=6.512" in shown


def test_what_is_said_reaches_people_and_the_log(
    tmp_path: Path, writer: RunWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(100, 0, writer)
    progress.log("weights start from there")
    progress.close()
    writer.flush()
    assert "weights start from there" in capsys.readouterr().out
    assert "weights start from there" in (tmp_path / "run" / "log.txt").read_text()
