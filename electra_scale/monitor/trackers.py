"""A run's rows in a tracker, beside TensorBoard: sent from a thread, so that no network makes training wait or end."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.errors import first_line
from data_pipeline.places.json_file import read_record, write_record
from data_pipeline.progress import counted
from electra_scale.monitor.tracker_libraries import LIBRARIES, Opened, TrackerLibrary, without_passwords

RECORD = "tracker.json"
"""In the run folder: by which keys each tracker finds its run again."""

_MOST_WAITING = 10_000
"""Rows that wait for a tracker that does not answer; later ones are counted as not sent."""

_AGAIN_SECONDS = 60.0
_CLOSE_SECONDS = 30.0


def check_tracker(kind: str | None) -> None:
    """Raise UserError if the recipe's tracker is not installed, or not set up, where the main rank runs."""
    if kind is not None:
        LIBRARIES[kind].check()


class Tracker:
    """Sends rows, in order, each step once. A tracker's faults are reported once and counted; none is raised.

    A resumed run continues its run in the tracker. Rows that the tracker has already are not sent again: it knows no
    way to take one back.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        config: Mapping[str, Any],
        last_row: int,
        log: Callable[[str], None],
    ) -> None:
        """Call it before the rows after ``last_row`` are dropped from the run folder, on the main rank.

        ``config`` has the recipe's settings by dotted names, and ``log`` takes a line for people, from any thread.
        """
        self._kind = kind
        self._record = folder / RECORD
        self._library: TrackerLibrary = LIBRARIES[kind](folder, config)
        self._log = lambda text: log(without_passwords(text))
        self._last_row = last_row
        self._sent = _last_step(folder / "metrics.jsonl")
        self._rows: queue.SimpleQueue[tuple[int, str, dict[str, float]] | str] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._reported = False
        self._lost: list[int] = []
        self._taken = 0
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def row(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Hand a row over; never waits."""
        if self._rows.qsize() >= _MOST_WAITING:
            self._lost.append(step)
        else:
            self._rows.put((step, phase, dict(values)))

    def close(self, state: str) -> None:
        """Send what waits, for a while, and end the tracker's run as ``finished``, ``stopped`` or ``failed``."""
        self._rows.put(state)
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        waiting = self._waiting()
        if self._thread.is_alive():
            self._report(f"did not take all rows within {_CLOSE_SECONDS:g} s after the end")
        missing = sorted([*self._lost, *waiting])
        if missing:
            self._log(
                f"tracker {self._kind}: {counted(len(missing), 'row')} not sent, the first of step {missing[0]}; "
                "metrics.jsonl and TensorBoard have them"
            )

    def _waiting(self) -> list[int]:
        found: list[int] = []
        while True:
            try:
                item = self._rows.get_nowait()
            except queue.Empty:
                return found
            if not isinstance(item, str):
                found.append(item[0])

    def _work(self) -> None:
        opened = self._open()
        while not opened and not self._closing.wait(_AGAIN_SECONDS):
            opened = self._open()
        # The network may have come back since.
        if not opened and not self._open():
            return
        while not isinstance(item := self._rows.get(), str):
            step, phase, values = item
            if step <= self._sent:
                continue
            try:
                self._library.row(step, phase, values)
            except Exception as error:
                self._lost.append(step)
                self._report(f"the row of step {step} could not be sent ({first_line(error)})")
        try:
            self._library.close(item)
        except Exception as error:
            self._report(f"its run could not be ended ({first_line(error)})")

    def _open(self) -> bool:
        try:
            opened = self._library.open(self._keys().get(self._kind, {}))
            self._keep(opened)
        except Exception as error:
            self._report(f"its run could not be opened ({first_line(error)}), which is tried again every minute")
            return False
        if opened.last_step is not None:
            self._sent = opened.last_step
        if not opened.continued:
            self._sent = 0
        line = f"tracker {self._kind}: {'continues' if opened.continued else 'begins'} {opened.where}"
        if self._sent > self._last_row:
            line += (
                f"; it has rows up to step {self._sent}, so those after step {self._last_row} that are made again are "
                "not sent again"
            )
        self._log(line)
        return True

    def _keys(self) -> dict[str, dict[str, str]]:
        found = read_record(self._record, lambda content: dict(content["runs"]), advice="remove it to begin a new run")
        return {} if found is None else found

    def _keep(self, opened: Opened) -> None:
        write_record(self._record, {"version": 1, "runs": {**self._keys(), self._kind: opened.keys}})

    def _report(self, what: str) -> None:
        if not self._reported:
            self._reported = True
            self._log(
                f"warning: tracker {self._kind}: {what}; training goes on, and further faults of the tracker are "
                "counted, not reported"
            )


def _last_step(rows: Path) -> int:
    """The step of the last row that a run has written; 0 if there is none."""
    if not rows.is_file():
        return 0
    for line in reversed(rows.read_text("utf-8", "replace").splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError, RecursionError):
            # A kill has cut it short.
            continue
    return 0
