"""What can be seen of a run from outside: its folder, its copy in a bucket, and what an attempt has printed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.state import STATE, RunState
from electra_scale.train.engine import universal

_BEGAN = re.compile(r"^(?:resuming from step (\d+)|starting): ", re.MULTILINE)


class RunView:
    """Looks only; nothing here changes the run. ``folder`` need not exist."""

    def __init__(self, folder: Path, remote: RemoteRun) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.remote = remote

    def row_count(self) -> int:
        """Whole lines of metrics.jsonl."""
        try:
            return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def rows(self) -> list[dict[str, Any]]:
        """Rows without what a clock decides; one that a kill has cut short is left out."""
        if not self.row_count():
            return []
        lines = (self.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [{name: value for name, value in row.items() if not name.startswith("speed/")} for row in rows]

    def newest(self) -> RunState | None:
        return checkpoint.newest(self.checkpoints)

    def newest_step(self) -> int:
        tags = checkpoint.complete_tags(self.checkpoints)
        return checkpoint.step_of(tags[-1]) if tags else 0

    def next_start(self) -> int:
        """The step from which the next attempt has to resume."""
        return max([self.newest_step(), *map(checkpoint.step_of, self.remote.tags())])

    def unfinished(self) -> list[Path]:
        """Files of a checkpoint that is being written, or whose writing was cut short."""
        newest = checkpoint.tag_of(self.newest_step())
        named = [
            folder
            for folder in self.checkpoints.glob("step-*")
            if folder.name > newest and not (folder / STATE).exists()
        ]
        return [path for folder in [*self.checkpoints.glob("unfinished-*"), *named] for path in _inside(folder)]

    def converting(self) -> list[Path]:
        """Files of a conversion that is under way, or was cut short."""
        folder = self.checkpoints / checkpoint.tag_of(self.newest_step())
        partial = [path for path in _inside(folder) if path.name.startswith(f"{universal.FOLDER}.partial-")]
        # Unlike Path.rglob, it bears folders that go away meanwhile.
        return [Path(parent, name) for path in partial for parent, _, names in os.walk(path) for name in names]

    def converted(self) -> bool:
        return (self.checkpoints / checkpoint.tag_of(self.newest_step()) / universal.FOLDER).is_dir()

    def uploading(self) -> dict[str, int]:
        """Files in the bucket of each checkpoint that is not complete there, if there is no newer one that is."""
        found: dict[str, set[str]] = {}
        for entry in self.remote.place.list("checkpoints/"):
            _, tag, name = entry.name.split("/", 2)
            found.setdefault(tag, set()).add(name)
        complete = [tag for tag, names in found.items() if STATE in names]
        return {tag: len(names) for tag, names in found.items() if tag > max(complete, default="")}

    def problems(self) -> list[str]:
        """What is wrong with the complete checkpoints."""
        tags = checkpoint.complete_tags(self.checkpoints)
        return [f"{tag}: {found}" for tag in tags if (found := checksums.problem(self.checkpoints / tag))]


def began_at(output: str) -> int | None:
    """The step from which an attempt reports that it resumes; None before that."""
    found = _BEGAN.search(output)
    return int(found[1] or 0) if found else None


def _inside(folder: Path) -> list[Path]:
    """Its files and folders, none if it goes away meanwhile."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
