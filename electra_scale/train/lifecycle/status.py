"""``RUN/status.json``: how a run stands, for batch scripts that decide whether to start it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record, write_record

_FILE = "status.json"

State = Literal["running", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Status:
    """``state``: running (also of a run that was killed), stopped (a request asked for it), finished or failed.

    ``step`` is that of the newest checkpoint.
    """

    state: State
    step: int
    total_steps: int
    reason: str = ""
    version: int = 1

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    def line(self) -> str:
        """The status for people."""
        text = f"{self.state} at step {self.step} of {self.total_steps}"
        return f"{text}: {self.reason}" if self.reason else text


def write_status(run: Path, status: Status) -> None:
    """Replace the file at once; one rank calls it."""
    write_record(run / _FILE, status)


def read_status(run: Path) -> Status:
    """How the run in a folder stands; raises UserError if the file is missing, damaged or of another version."""
    status = read_record(run / _FILE, _decode, advice="start the run again with --resume auto")
    if status is None:
        raise UserError(f"{run} has no {_FILE}: no run has begun there, or an earlier release wrote it")
    return status


def _decode(content: dict[str, Any]) -> Status:
    status = Status(**content)
    if status.state not in get_args(State) or type(status.step) is not int or type(status.total_steps) is not int:
        raise ValueError(f"state {status.state!r} at step {status.step!r} of {status.total_steps!r}")
    return status
