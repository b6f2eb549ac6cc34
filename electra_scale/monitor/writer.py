"""TensorBoard, metrics.jsonl and the log file of a run; the same values under the same names."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import disk_full, sync, write_bytes
from data_pipeline.progress import counted


class RunWriter:
    """Writes the rows and the log of a run, on one rank.

    A run that resumes from step n first drops the rows after it, so that no step is there twice; TensorBoard gets a
    new event file that has it do the same.
    """

    def __init__(self, folder: Path, from_step: int) -> None:
        # It takes a third of a second to import, and one rank of many writes.
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._rows_path = folder / "metrics.jsonl"
        with _reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
            damaged = keep_rows(self._rows_path, from_step)
            self._rows: TextIO = self._rows_path.open("a", buffering=1)
            self._log: TextIO = (folder / "log.txt").open("a", buffering=1)
            self._board = SummaryWriter(
                log_dir=str(folder / "tensorboard"),
                # From step 0 too: an earlier start may have ended before its first checkpoint.
                purge_step=from_step + 1,
                # Two starts of a run on one host within a second must not share a file.
                filename_suffix=f".{os.getpid()}",
            )
        if damaged:
            self.line(f"left out of {self._rows_path.name} {counted(damaged, 'line')} that cannot be read")

    def metrics(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """One row; non-finite values stay visible as null in the file. Raises UserError if the disk is full."""
        row: dict[str, object] = {"step": step, "phase": phase}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        with _reported(self._rows_path):
            self._rows.write(json.dumps(row) + "\n")
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def line(self, text: str) -> None:
        """A line of the log file, with the time."""
        # A full disk ends the run with its next row; until then a line must not, from whatever thread it comes. While
        # the files are being closed it is too late for one.
        with contextlib.suppress(OSError, ValueError):
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def flush(self) -> None:
        """Put everything on disk; called with each checkpoint, so that both hold the same steps."""
        with _reported(self._folder):
            for file in (self._rows, self._log):
                file.flush()
                sync(file.fileno(), self._folder)
            self._board.flush()

    def close(self) -> None:
        """Close the files. What the run resumes from was flushed with its last checkpoint."""
        for close in (self._rows.close, self._log.close, self._board.close):
            # The run may be ending because of the disk, and the first error says more than this one.
            with contextlib.suppress(OSError):
                close()


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Raise UserError, with what to do, where the disk does not take what a run writes."""
    try:
        yield
    except OSError as error:
        cure = "free some space on its disk" if disk_full(error) else "check the path and its permissions"
        raise UserError(f"cannot write {path} ({error.strerror}); {cure}, then resume with --resume auto") from error


def keep_rows(path: Path, last_step: int) -> int:
    """Drop rows after ``last_step``, a row that a kill cut short, and whatever is not a row.

    Returns how many lines before the last one were not rows: no kill leaves such lines, something else has.
    """
    if not path.is_file():
        return 0
    kept, damaged = [], 0
    lines = path.read_text("utf-8", "replace").splitlines()
    for number, line in enumerate(lines):
        try:
            later = json.loads(line)["step"] > last_step
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += number < len(lines) - 1
            continue
        if not later:
            kept.append(line + "\n")
    write_bytes(path, "".join(kept).encode())
    return damaged
