"""``RUN/status.json``: how a run stands, for batch scripts that decide whether to start it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes

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
        """For people."""
        text = f"{self.state} at step {self.step} of {self.total_steps}"
        return f"{text}: {self.reason}" if self.reason else text


def write_status(run: Path, status: Status) -> None:
    """Replace the file at once; one rank calls it."""
    write_bytes(run / _FILE, json.dumps(asdict(status), indent=1).encode() + b"\n")


def read_status(run: Path) -> Status:
    """How the run in a folder stands; raises UserError if the file is missing, damaged or of another version."""
    path = run / _FILE
    try:
        content = json.loads(path.read_text())
        version = content["version"]
        status = Status(**content) if version == 1 else None
        if status is not None and (status.state not in get_args(State) or not isinstance(status.step, int)):
            raise ValueError(f"state {status.state!r} at step {status.step!r}")
    except FileNotFoundError as error:
        raise UserError(f"{run} has no {_FILE}: no run has begun there, or an earlier release wrote it") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); start the run again with --resume auto") from error
    if status is None:
        raise UserError(f"{path} has version {version}, this program reads 1")
    return status
