"""The log of a run: its starts with their ranks and times, alarms, and steps that were skipped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from data_pipeline.errors import UserError

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (.*)")
_START = re.compile(r"(?:starting|resuming from step (\d+)): \d+ steps of \d+ x \d+ on (\d+) ranks \(.*?, (\w+)\)")
_ALARM = re.compile(r"alarm at step (\d+): (.*)")
_SKIPPED = re.compile(r"step (\d+) is skipped: ")


@dataclass(frozen=True)
class Attempt:
    """One uninterrupted execution of a run: the step that it began with, and the clock of its machine."""

    step: int
    ranks: int
    device: str
    began: datetime
    ended: datetime


@dataclass(frozen=True)
class Log:
    """What the log file says. Empty for a run without one."""

    attempts: tuple[Attempt, ...] = ()
    alarms: tuple[tuple[int, str], ...] = ()
    skipped: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def running(self) -> timedelta:
        """The time of all attempts together, from the first line of each to its last."""
        return sum((attempt.ended - attempt.began for attempt in self.attempts), timedelta())

    @property
    def stopped(self) -> timedelta:
        """The time between attempts."""
        pairs = zip(self.attempts, self.attempts[1:], strict=False)
        return sum((max(timedelta(), later.began - earlier.ended) for earlier, later in pairs), timedelta())


def read_log(path: Path) -> Log:
    """Read a log file; raises UserError if it is there and cannot be read."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return Log()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check the path and its permissions") from error
    attempts: list[Attempt] = []
    alarms: list[tuple[int, str]] = []
    skipped: list[int] = []
    warnings: list[str] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            continue
        try:
            at = datetime.fromisoformat(match[1])
        except ValueError:
            continue
        if found := _START.match(match[2]):
            attempts.append(Attempt(int(found[1] or 0), int(found[2]), found[3], at, at))
        elif attempts:
            last = attempts[-1]
            attempts[-1] = Attempt(last.step, last.ranks, last.device, last.began, max(at, last.ended))
        if found := _ALARM.match(match[2]):
            alarms.append((int(found[1]), found[2]))
        elif found := _SKIPPED.match(match[2]):
            skipped.append(int(found[1]))
        elif match[2].startswith("warning: "):
            warnings.append(match[2].removeprefix("warning: "))
    return Log(tuple(attempts), tuple(alarms), tuple(skipped), tuple(warnings))
