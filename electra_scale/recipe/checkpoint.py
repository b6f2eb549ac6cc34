"""Settings of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.names import is_object_store, split_s3_url
from data_pipeline.places.open import open_place


@dataclass
class CheckpointConfig:
    """When to save, what to keep, and where a copy goes."""

    every: int = 500
    """Steps between checkpoints; there is one at the end in any case."""

    keep: int = 2
    """Newest checkpoints kept; older ones are removed."""

    keep_every: int = 0
    """Checkpoints at multiples of this many steps are never removed; 0 = none."""

    upload: str | None = None
    """Folder or ``s3://bucket/prefix`` that gets a copy of the run in the background, checkpoint by checkpoint; with
    ``--resume auto`` a machine without the run folder resumes from there."""

    stop_signal: Literal["TERM", "USR1", "USR2"] = "TERM"
    """A signal to a rank that asks the run to save and stop, besides SIGTERM, which always does."""

    def problems(self, run_dir: str) -> list[str]:
        """Impossible settings, one sentence each."""
        found = []
        for name, value, least in (
            ("every", self.every, 1),
            ("keep", self.keep, 1),
            ("keep_every", self.keep_every, 0),
        ):
            if value < least:
                found.append(f"checkpoint.{name} is {value}; it must be at least {least}")
        if not found and self.keep_every % self.every:
            found.append(
                f"checkpoint.keep_every is {self.keep_every}, which is not a multiple of checkpoint.every "
                f"({self.every}): nothing is saved at most of those steps; "
                f"{-(-self.keep_every // self.every) * self.every} would work"
            )
        if self.upload is not None:
            found += _upload_problems(self.upload, Path(run_dir))
        return found


def _upload_problems(url: str, run_dir: Path) -> list[str]:
    try:
        if is_object_store(url):
            # Not opened: a run can be exported where what reaches its bucket is not installed.
            split_s3_url(url)
            return []
        place = open_place(url)
    except UserError as error:
        return [f"checkpoint.upload: {error}"]
    if isinstance(place, FolderPlace):
        folder, run = place.path.resolve(), run_dir.resolve()
        if folder == run or folder.is_relative_to(run) or run.is_relative_to(folder):
            return [f"checkpoint.upload is {url}, which overlaps with run_dir {run_dir}; choose another folder"]
    return []
